"""A state that a run was started from by name is kept, also when that run fails or is repeated."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.cats import Cats
from tests.helpers import ROOT, lora
from tests.trees import listing

pytest.importorskip("torch")
pytestmark = pytest.mark.upstream


@pytest.fixture(scope="module")
def two_steps(sd_scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run of two steps, which saved a state at the second step and at its end."""
    trained = Cats(tmp_path_factory.mktemp("two"))
    assert trained.train("max_train_steps=2").code == 0
    return trained.out


@pytest.fixture
def cats(sd_scripts: Path, tmp_path: Path) -> Cats:
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


def test_a_final_state_that_a_run_began_from_is_not_saved_over(cats: Cats, two_steps: Path) -> None:
    shutil.copytree(two_steps, cats.out)
    final = cats.out / "cats-state"
    before = listing(final)
    longer = cats.train("max_train_steps=4", "save_last_n_steps_state=1", resume=final)
    assert longer.code == 0, longer.err
    assert listing(final) == before
    assert (cats.out / "cats-state.2").is_dir()
    assert str(cats.out / "cats-state.2") in [event["path"] for event in cats.events("cats", "state")]
    anew = cats.train("max_train_steps=4", resume="never")
    assert anew.code == 0, anew.err
    assert listing(final) == before
    assert cats.record("cats.1")["start"] is None
    assert cats.record("cats.2")["start"]["path"] == str(final)
    rerun = lora("runs", "rerun", cats.out / "cats.2.safetensors", cwd=ROOT)
    assert rerun.code == 0, rerun.err


def test_upstreams_own_cleaning_up_leaves_it(cats: Cats, two_steps: Path) -> None:
    named = Path(shutil.copytree(two_steps / "cats-step00000002-state", cats.out / "cats-step00000002-state"))
    before = listing(named)
    longer = cats.train("max_train_steps=8", "save_last_n_steps_state=2", resume=named)
    assert longer.code == 0, longer.err
    assert listing(named) == before
    assert not (cats.out / "cats-step00000004-state").exists()


def test_a_rerun_from_a_state_keeps_what_another_rerun_left_in_its_folder(
    cats: Cats, two_steps: Path, tmp_path: Path
) -> None:
    for steps in (3, 4):
        output = tmp_path / f"{steps}"
        assert cats.train(f"output_dir={output}", f"max_train_steps={steps}", resume=two_steps / "cats-state").code == 0
        again = lora("runs", "rerun", output / "cats.safetensors", "--output", tmp_path / "again", cwd=ROOT)
        assert again.code == 0, again.err
    assert f"kept as {tmp_path / 'again' / 'cats.1'}" in again.err
    assert (tmp_path / "again" / "cats.1.safetensors").exists()
