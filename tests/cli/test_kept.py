"""What a run was begun from by name stays as it is, whatever becomes of the run, and of those after it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lora_training import workspace
from tests.helpers import ROOT, Ran, lora
from tests.trees import listing

pytest.importorskip("torch")
pytestmark = pytest.mark.upstream
SMOKE = ROOT / "configs" / "smoke.toml"
SAVING = ("save_every_n_steps=2", "save_state=true")


class Cats:
    """A configuration of its own, trained into `out`, without the smoke run's assets."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        self.file = folder / "cats.toml"
        text = SMOKE.read_text(encoding="utf-8").replace('assets = "smoke"', "retries = 0")
        text = text.replace('"../output/smoke"', '"out"').replace('output_name = "smoke"', 'output_name = "cats"')
        self.file.write_text(text, encoding="utf-8")

    def words(self, *sets: str) -> list[str]:
        return ["train", str(self.file), *(word for item in (*SAVING, *sets) for word in ("--set", item))]

    def train(self, *sets: str, resume: Path | str = "auto") -> Ran:
        return lora(*self.words(*sets), "--resume", str(resume), cwd=ROOT)

    def stopped(self, *sets: str) -> Path:
        """Train until there is a step, then stop; the state that the stop left."""
        argv = [sys.executable, "-m", "lora_training", *self.words(*sets, "max_train_steps=100000")]
        events = self.out / "cats.run" / "events.jsonl"
        running = subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while running.poll() is None and not (events.exists() and b'"step"' in events.read_bytes()):
            pass
        running.send_signal(signal.SIGTERM)
        assert running.wait() == 143
        return max(self.out.glob("cats-step*-state"))

    def record(self, name: str) -> dict[str, object]:
        return dict(json.loads((self.out / f"{name}.run" / "run.json").read_text(encoding="utf-8")))


@pytest.fixture
def cats(sd_scripts: Path, tmp_path: Path) -> Cats:
    assets = workspace.Workspace(ROOT).cache / "smoke"
    if not assets.exists():
        subprocess.run([sys.executable, "-m", "lora_training.smoke", str(assets)], cwd=ROOT, check=True)
    return Cats(tmp_path)


def test_a_stops_state_that_a_run_began_from_outlives_both_runs_and_a_rerun_takes_it(cats: Cats) -> None:
    state = cats.stopped("save_every_n_steps=100")
    before, step = listing(state), int(state.name[9:17])
    other = (f"max_train_steps={step + 2}", "learning_rate=0.01", "save_every_n_steps=100")
    assert cats.train(*other, resume=state).code == 0
    assert listing(state) == before
    again = lora("runs", "rerun", cats.out / "cats.safetensors", cwd=ROOT)
    assert again.code == 0, again.err
    assert "same bits" in again.out
    assert listing(state) == before


def test_a_final_state_that_a_run_began_from_is_not_saved_over(cats: Cats) -> None:
    assert cats.train("max_train_steps=2").code == 0
    final = cats.out / "cats-state"
    before = listing(final)
    longer = cats.train("max_train_steps=4", "save_last_n_steps_state=1", resume=final)
    assert longer.code == 0, longer.err
    assert listing(final) == before
    assert (cats.out / "cats-state.2").is_dir()
    saved = [json.loads(line) for line in (cats.out / "cats.run" / "events.jsonl").read_text("utf-8").splitlines()]
    assert str(cats.out / "cats-state.2") in [event.get("path") for event in saved]
    anew = cats.train("max_train_steps=4", resume="never")
    assert anew.code == 0, anew.err
    assert listing(final) == before
    assert cats.record("cats.1")["start"] is None
    assert cats.record("cats.2")["start"]["path"] == str(final)  # type: ignore[index]
    rerun = lora("runs", "rerun", cats.out / "cats.2.safetensors", cwd=ROOT)
    assert rerun.code == 0, rerun.err


def test_upstreams_own_cleaning_up_leaves_it(cats: Cats) -> None:
    assert cats.train("max_train_steps=2").code == 0
    named = cats.out / "cats-step00000002-state"
    shutil.rmtree(cats.out / "cats-state")
    before = listing(named)
    longer = cats.train("max_train_steps=8", "save_last_n_steps_state=2", resume=named)
    assert longer.code == 0, longer.err
    assert listing(named) == before
    assert not (cats.out / "cats-step00000004-state").exists()
