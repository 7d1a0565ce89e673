"""What something else made under the same name is neither moved unasked nor mixed with a new run."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from lora_training import workspace
from tests.cli.cats import Cats
from tests.helpers import ROOT, Ran, lora

pytest.importorskip("torch")
pytestmark = pytest.mark.upstream
PROMPTS = "a red circle --w 64 --h 64 --s 1 --d 7\na square --w 64 --h 64 --s 1\n"


@dataclass(frozen=True)
class Trained:
    """One run that drew samples and logged, after another configuration had failed under its name."""

    cats: Cats
    sets: tuple[str, ...]
    failed: Ran
    ran: Ran


@pytest.fixture(scope="module")
def trained(sd_scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("cats")
    cats = Cats(folder)
    (folder / "prompts.txt").write_text(PROMPTS, encoding="utf-8")
    drawn = (f"sample_prompts={folder / 'prompts.txt'}", "sample_every_n_steps=2", "log_with=tensorboard")
    sets = ("max_train_steps=2", f"logging_dir={folder / 'logs'}", *drawn)
    failed = cats.train(*sets, "network_module=nothing.here")
    return Trained(cats, sets, failed, cats.train(*sets))


def test_what_failed_under_the_name_has_a_record_of_its_own(trained: Trained) -> None:
    assert trained.failed.code != 0
    assert trained.ran.code == 0, trained.ran.err
    cats = trained.cats
    assert [event["number"] for event in cats.events("cats", "attempt")] == [1]
    assert "nothing" not in (cats.out / "cats.run" / "attempt-1.log").read_text(encoding="utf-8")
    assert cats.record("cats.1")["state"] == "failed"
    assert "nothing" in (cats.out / "cats.1.run" / "attempt-1.log").read_text(encoding="utf-8")


def test_samples_are_the_runs_own_and_events_with_step_prompt_and_seed(trained: Trained) -> None:
    found = trained.cats.events("cats", "sample")
    asked = [(each["step"], each["prompt"], each["seed"]) for each in found]
    assert asked == [(2, "a red circle", 7), (2, "a square", None)]
    folder = trained.cats.out / "cats.run" / "samples"
    assert sorted(folder.iterdir()) == sorted(Path(each["path"]) for each in found)
    assert not (trained.cats.out / "sample").exists()


def test_its_folders_are_named_by_runs_show(trained: Trained) -> None:
    lora_file = trained.cats.out / "cats.safetensors"
    logs = trained.cats.out.with_name("logs") / "cats"
    assert list(logs.rglob("events.out.tfevents.*"))
    shown = lora("runs", "show", lora_file, cwd=ROOT).out
    assert f"samples   {trained.cats.out / 'cats.run' / 'samples'}" in shown
    assert str(logs) in shown
    found = json.loads(lora("runs", "show", lora_file, "--json", cwd=ROOT).out)
    assert (found["samples"], found["tensorboard"]) == (str(trained.cats.out / "cats.run" / "samples"), str(logs))


def test_a_dry_run_prints_the_very_command_once_more(trained: Trained) -> None:
    ran = lora(*trained.cats.words(*trained.sets), "--dry-run", cwd=ROOT)
    assert ran.out == (trained.cats.out / "cats.run" / "command.sh").read_text(encoding="utf-8")


def test_a_complete_run_of_another_configuration_is_an_error_with_what_differs(trained: Trained) -> None:
    before = (trained.cats.out / "cats.safetensors").stat()
    ran = trained.cats.train(*trained.sets, "learning_rate=0.5")
    assert ran.code == 3
    assert "was made with another configuration" in ran.err
    assert "learning_rate: 0.001 -> 0.5" in ran.err
    assert "`--resume never` starts anew and keeps the present files as cats.2" in ran.err
    assert f"`--set network_weights={trained.cats.out / 'cats.safetensors'} --set output_name=NEW`" in ran.err
    assert "another output_name" in ran.err
    assert (trained.cats.out / "cats.safetensors").stat() == before


def test_the_words_of_a_patch_are_no_part_of_what_made_a_run(trained: Trained, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("patches", "third_party"):
        shutil.copytree(ROOT / name, checkout / name, symlinks=True)
    shutil.copy(ROOT / ".gitmodules", checkout)
    (checkout / "lora_training").mkdir()
    cache = workspace.Workspace(ROOT).state / "cache"
    env = {**os.environ, "LORA_HOME": str(checkout), "LORA_CACHE": str(cache)}
    patch = checkout / "patches" / "sd-scripts" / "0001-resume-counts.patch"
    patch.write_text(patch.read_text(encoding="utf-8").replace("Reason:", "Reason: In other words,"), encoding="utf-8")
    locked = lora("patch", "lock", cwd=ROOT, env=env)
    assert locked.code == 0, locked.err
    ran = trained.cats.train(*trained.sets, env=env)
    assert ran.code == 0, ran.err
    assert "this run is complete" in ran.err


def test_a_complete_lora_whose_record_is_lost_is_not_said_to_have_one(trained: Trained) -> None:
    path = trained.cats.out / "cats.run" / "run.json"
    kept = path.rename(path.with_name("kept.json"))
    ran = trained.cats.train(*trained.sets)
    kept.rename(path)
    assert ran.code == 0, ran.err
    assert "nothing to train: by its metadata" in ran.err
    assert "no record that can be read" in ran.err
    assert "record " not in ran.out


def test_a_lora_that_the_run_itself_reads_is_neither_moved_nor_written_over(trained: Trained) -> None:
    lora_file = trained.cats.out / "cats.safetensors"
    before = lora_file.stat()
    ran = trained.cats.train(*trained.sets, f"network_weights={lora_file}", resume="never")
    assert ran.code == 3
    assert "is read by this run" in ran.err
    assert lora_file.stat() == before


def test_what_is_put_aside_takes_its_samples_and_logs_along(trained: Trained) -> None:
    """The last of this module: it trains anew."""
    cats = trained.cats
    ran = cats.train(*trained.sets, "learning_rate=0.5", resume="never")
    assert ran.code == 0, ran.err
    drawn = [Path(each["path"]) for each in cats.events("cats.2", "sample")]
    assert [path.parent for path in drawn if path.exists()] == [cats.out / "cats.2.run" / "samples"] * 2
    logs = cats.out.with_name("logs")
    # the run that failed before its first step had none
    assert {path.name for path in logs.iterdir()} == {"cats", "cats.2"}
    assert cats.record("cats.2")["tensorboard"] == str(logs / "cats.2")
    assert len(list((logs / "cats").rglob("events.out.tfevents.*"))) == 1
