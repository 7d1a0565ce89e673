from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.conftest import Trainer, Training, same, start_ranks

pytestmark = pytest.mark.upstream

ON = {"exact-resume": {}, "graceful-stop": {}, "rank-noise": {}, "ranks": {}, "progress": {}}
# two steps an epoch, so that the order of the data is drawn several times
SAVING = ("max_train_steps=9", "save_state=true", "save_every_n_steps=3", "network_dropout=0.2")


def both(train: Trainer, folder: Path, *sets: str, **env: str) -> list[Training]:
    """Two ranks started, which meet in a file."""
    folder.mkdir()
    env |= {"LORA_FILE_STORE": str(folder / "store"), "LORA_RUN_FOLDER": str(folder)}
    return start_ranks(train, folder, 2, *SAVING, *sets, runtime=ON, env=env)


def to_the_end(ranks: list[Training]) -> Training:
    assert [rank.wait() for rank in ranks] == [0, 0], "".join(rank.log[-3000:] for rank in ranks)
    return ranks[0]


@pytest.fixture(scope="module")
def whole(train: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Training:
    return to_the_end(both(train, tmp_path_factory.mktemp("ranks") / "whole"))


def resume(state: Path) -> tuple[str, ...]:
    return f"resume={state}", "skip_until_initial_step=true"


def assert_same_end(resumed: Training, whole: Training) -> None:
    assert same(resumed.weights(), whole.weights())
    for file in ("model.safetensors", "train_state.json"):
        ours, theirs = ((run.folder / "smoke-state" / file).read_bytes() for run in (resumed, whole))
        assert ours == theirs, file


@pytest.mark.parametrize("step", [3, 6])
def test_two_ranks_go_on_from_a_state_to_the_bits_of_an_uninterrupted_run(
    train: Trainer, whole: Training, tmp_path: Path, step: int
) -> None:
    state = whole.folder / f"smoke-step{step:08d}-state"
    assert_same_end(to_the_end(both(train, tmp_path / "on", *resume(state))), whole)


def test_two_ranks_stopped_by_sigterm_go_on_to_the_same_bits(train: Trainer, whole: Training, tmp_path: Path) -> None:
    stopped = both(train, tmp_path / "stopped", "max_train_steps=100000")
    while not stopped[0].of("step"):
        assert stopped[0].ends.empty(), stopped[0].log
    os.kill(stopped[1].pid, signal.SIGTERM)
    assert [rank.wait() for rank in stopped] == [143, 143], stopped[0].log
    step = last(stopped[0].events)["step"]
    state = tmp_path / "stopped" / f"smoke-step{step:08d}-state"
    shutil.move(state, tmp_path / "state")
    assert_same_end(to_the_end(both(train, tmp_path / "on", *resume(tmp_path / "state"))), whole)


def last(events: list[dict[str, Any]]) -> dict[str, Any]:
    assert events[-1]["event"] == "stopped"
    return events[-1]
