"""Reruns from a record alone, and runs that are kept when another takes their name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_training import manifest, workspace
from lora_training.app import plan as plans
from lora_training.app import recording, rerun, runs
from lora_training.errors import CheckFailed, LoraError
from lora_training.supervise import digests, record, states
from tests.helpers import ROOT, Ran, lora

pytest.importorskip("torch")
pytestmark = pytest.mark.upstream
SMOKE = ROOT / "configs" / "smoke.toml"


@dataclass(frozen=True)
class Trained:
    """A short training of images of its own, from a configuration that is gone since."""

    ran: Ran
    folder: Path

    @property
    def lora(self) -> Path:
        return self.folder / "out" / "cats.safetensors"

    def document(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.lora.with_suffix(".run") / name).read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def trained(sd_scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from lora_training.smoke import images

    folder = tmp_path_factory.mktemp("a b")
    images.write(folder / "images")
    text = SMOKE.read_text(encoding="utf-8").replace("${LORA_CACHE}/smoke/images", "images")
    text = text.replace('"../output/smoke"', '"out"').replace('output_name = "smoke"', 'output_name = "cats"')
    file = folder / "mine.toml"
    file.write_text(text, encoding="utf-8")
    env = {**os.environ, "LORA_LEARNING_RATE": "2e-3"}
    ran = lora("train", file, "--set", "max_train_steps=3", cwd=folder, env=env)
    file.unlink()
    return Trained(ran, folder)


def test_the_record_says_what_the_run_was_made_of(trained: Trained) -> None:
    assert trained.ran.code == 0, trained.ran.err
    made_in, inputs = trained.document("environment.json"), trained.document("inputs.json")
    assert made_in["upstreams"]["sd-scripts"] == "6721028c79ee85a78b3a06dfd8954dae310a1cce"
    assert "tiny-unet" in made_in["runtime"]
    assert {"torch", "xformers", "click"} <= made_in["packages"].keys()
    assert len(inputs["files"]["dataset"]) == 8
    assert any(name.endswith("model_index.json") for name in inputs["files"]["models"])
    shown = lora("runs", "show", trained.lora, cwd=ROOT)
    assert f"dataset   8 files, sha256 {inputs['dataset']}" in shown.out
    assert json.loads(lora("runs", "show", trained.lora, "--json", cwd=ROOT).out)["inputs"] == inputs


def test_a_run_is_repeated_from_its_record_alone_to_the_same_bits(trained: Trained) -> None:
    before = trained.lora.read_bytes()
    again = lora("runs", "rerun", trained.lora, "--json", cwd=ROOT)
    assert again.code == 0, again.err
    found = json.loads(again.out)
    assert (found["same"], found["differ"]) == (True, [])
    assert found["lora"] == str(trained.folder / "out" / "cats.rerun" / "cats.safetensors")
    assert trained.lora.read_bytes() == before
    run = record.read(Path(found["lora"]).with_suffix(".run"))
    assert run
    assert run.rerun_of == str(trained.lora)


def test_a_run_that_another_checkout_made_is_found_by_its_place(tmp_path: Path) -> None:
    record.Record("dogs", "", str(tmp_path / "dogs.safetensors"), "", {}).save(tmp_path)
    folder = tmp_path.rename(tmp_path.with_name("dogs.run"))
    for place in (folder, folder.with_suffix(".safetensors")):
        assert json.loads(lora("runs", "show", place, "--json", cwd=ROOT).out)["folder"] == str(folder)


def test_a_data_set_that_was_moved_is_the_same_data_set() -> None:
    def of(folder: str, **more: str) -> str:
        return recording._together({f"{folder}/a.png": "1", f"{folder}/b/c.png": "2", **more})

    assert of("/here") == of("/there/and/then")
    assert of("/here") != of("/here", **{"/here/d.png": "2"})
    assert recording._together({}) == recording._together({})


def test_by_its_name_alone_a_run_is_the_one_that_repeats_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again = (record.Record("cats", "", str(tmp_path / name / "cats.safetensors"), "", {}) for name in "ab")
    again.rerun_of = first.output
    kept = [(Path(run.output).with_suffix(".run"), run) for run in (again, first)]
    monkeypatch.setattr("lora_training.supervise.run_index.runs", lambda _here: kept)
    assert runs.find(workspace.find(), "cats") == kept[1]
    assert runs.find(workspace.find(), again.output) == kept[0]
    with record.alone(kept[0][0]):
        assert runs.find(workspace.find(), "cats", alive=True) == kept[0]
    again.rerun_of = None
    with pytest.raises(LoraError, match="there are 2 runs"):
        runs.find(workspace.find(), "cats")


def test_with_another_data_set_it_is_refused_by_the_images_name(trained: Trained, tmp_path: Path) -> None:
    image = trained.folder / "images" / "circle.png"
    before = image.read_bytes()
    try:
        image.write_bytes((trained.folder / "images" / "square.png").read_bytes())
        ran = lora("runs", "rerun", trained.lora, "--output", tmp_path / "there", cwd=ROOT)
    finally:
        image.write_bytes(before)
    assert ran.code == 1
    assert f"dataset: {image} was changed" in ran.err
    assert "--allow-changes" in ran.err
    assert not (tmp_path / "there").exists()


def test_the_originals_own_folder_is_no_place_for_it(trained: Trained) -> None:
    ran = lora("runs", "rerun", trained.lora, "--output", trained.folder / "out", cwd=ROOT)
    assert ran.code == 3
    assert "the original is in" in ran.err


def plan_of(trained: Trained, *sets: str) -> plans.Plan:
    """What `lora train` would be about to do."""
    file = trained.lora.with_suffix(".run") / "config.toml"
    return plans.make(workspace.Workspace(ROOT), file, sets, write=True)


def test_of_a_run_that_never_finished_it_says_first_that_there_is_nothing_to_compare_with(
    trained: Trained, tmp_path: Path
) -> None:
    folder = shutil.copytree(trained.lora.with_suffix(".run"), tmp_path / "cats.run")
    said = "cats never finished, so there will be nothing to compare the LoRA with"
    argv = ("runs", "rerun", folder, "--output", tmp_path)
    assert said not in lora(*argv, cwd=ROOT).err
    (folder / digests.TENSORS).unlink()
    assert said in lora(*argv, cwd=ROOT).err


def test_the_resolved_configuration_is_the_very_run(trained: Trained) -> None:
    plan = plan_of(trained)
    run = record.read(plan.folder)
    assert run
    assert plan.made_by == run.made_by
    assert recording.complete(plan)


def test_the_precision_of_the_launch_makes_another_run(trained: Trained) -> None:
    assert plan_of(trained, "launch.mixed_precision=bf16").made_by != plan_of(trained).made_by


def test_other_pins_patches_and_settings_are_named(trained: Trained) -> None:
    plan = plan_of(trained)
    run = record.read(plan.folder)
    assert run
    here = workspace.Workspace(ROOT)
    now = recording.surroundings(here, plan)
    original = rerun.Original(plan.folder, run)
    assert list(rerun._differences(original, plan, now)) == []
    now["upstreams"]["sd-scripts"] = "0123456789abcdef"
    now["patches"]["sd-scripts/0002-more.patch"] = "abc"
    now["runtime"]["ema"] = {"decay": 0.9}
    assert list(
        rerun._differences(
            original, replace(plan, made_by={**plan.made_by, "config": "other", "patches": "other"}), now
        )
    ) == [
        "upstream sd-scripts: 6721028c79ee -> 0123456789ab",
        "patch sd-scripts/0002-more.patch: none -> abc",
        "runtime ema: none -> {'decay': 0.9}",
        f"config: {run.made_by['config'][:12]} -> other",
    ]


def test_a_run_that_began_with_a_state_needs_that_very_state(trained: Trained, tmp_path: Path) -> None:
    plan = replace(plan_of(trained), output=tmp_path / "cats.safetensors")
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    manifest.write(folder, step=5, made_by={"config": "another"})
    start = recording._start(plan, states.State(folder, 5, {"config": "another"}), None)
    assert start
    original = rerun.Original(
        tmp_path, record.Record("cats", "", str(plan.output), "", dict(plan.made_by), start=start)
    )
    assert rerun._resume(original, plan) == str(folder)
    manifest.write(folder, step=6, made_by={"config": "another"})
    with pytest.raises(CheckFailed, match="which has changed since"):
        rerun._resume(original, plan)


def begin(plan: plans.Plan, resume: str = "auto") -> list[str]:
    """Begin a record as `lora train` does before it starts a child; return its notes."""
    said: list[str] = []
    terminal = SimpleNamespace(note=said.append)
    with record.alone(plan.folder):
        recording.begin(workspace.Workspace(ROOT), plan, resume, None, terminal)  # type: ignore[arg-type] - as above
    return said


def test_a_lora_without_metadata_is_known_by_its_record(trained: Trained, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    plan = replace(plan_of(trained), output=tmp_path / "cats.safetensors")
    save_file(load_file(trained.lora), plan.output)
    assert recording.complete(plan) is None
    plan.folder.mkdir()
    run = record.Record("cats", "", str(plan.output), "", dict(plan.made_by))
    run.result = {"steps": 3, "sha256": hashlib.sha256(plan.output.read_bytes()).hexdigest()}
    run.save(plan.folder)
    found = recording.complete(plan)
    assert found
    assert found.steps == 3
    assert begin(plan) == []
    save_file(load_file(trained.lora), plan.output, {"another": "file"})
    assert recording.complete(plan) is None
    assert "are kept as" in begin(plan)[0]


def test_a_lora_whose_end_was_cut_off_is_the_runs_own(trained: Trained, tmp_path: Path) -> None:
    plan = replace(plan_of(trained), output=tmp_path / "cats.safetensors")
    plan.folder.mkdir()
    record.Record("cats", "", str(plan.output), "", dict(plan.made_by), attempts=[{"from_step": 0}]).save(plan.folder)
    checkpoint = tmp_path / "cats-step00000002.safetensors"
    checkpoint.write_bytes(b"a checkpoint")
    plan.output.write_bytes(trained.lora.read_bytes()[:-9])
    assert begin(plan) == []
    # one that says that another made it goes, and the run's own checkpoints stay
    plan.output.write_bytes(trained.lora.read_bytes().replace(plan.made_by["config"].encode(), b"0" * 64))
    assert f"kept as {tmp_path}/cats.1" in begin(plan)[0]
    assert checkpoint.exists()
    assert (tmp_path / "cats.1.safetensors").exists()


def test_a_run_of_the_same_name_keeps_what_is_its_own(trained: Trained) -> None:
    before = trained.lora.read_bytes(), trained.document("run.json")
    assert begin(plan_of(trained)) == []
    assert (trained.lora.read_bytes(), trained.document("run.json")) == before


def test_another_run_of_the_same_name_puts_the_first_one_aside(trained: Trained, tmp_path: Path) -> None:
    output = shutil.copytree(trained.lora.parent, tmp_path / "out") / trained.lora.name
    plan = replace(plan_of(trained, "max_train_steps=2"), output=output)
    aside = output.with_name("cats.1.safetensors")
    assert f"kept as {aside.with_suffix('')}" in begin(plan)[0]
    assert aside.read_bytes() == trained.lora.read_bytes()
    assert not output.exists()
    shown = lora("runs", "show", aside, cwd=ROOT)
    assert shown.out.startswith("cats.1: complete\n")
    assert "result    3 steps" in shown.out
