from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from lora_training import manifest
from tests.runtime.conftest import Trainer, Training, same, start_ranks

STOP = {"progress": {}, "graceful-stop": {}}
LONG = "max_train_steps=100000"


def reached(training: Training, event: str = "step") -> None:
    """Return when the training has told of such an event; it ending first is a failure."""
    while not training.of(event):
        assert training.ends.empty(), training.log


def assert_stopped(training: Training) -> int:
    """It left as it should; the step."""
    assert training.wait() == 143, training.log
    assert training.events[-1]["event"] == "stopped"
    step = int(training.events[-1]["step"])
    assert [event["step"] for event in training.of("step")][-1] == step
    assert list(training.folder.glob("*.safetensors")) == []
    state = training.folder / f"smoke-step{step:08d}-state"
    assert (state / "train_state.json").exists()
    assert manifest.is_passing(state)
    assert f"saved at step {step}" in training.log
    assert "Traceback" not in training.log
    return step


@pytest.mark.upstream
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_leaves(train: Trainer, tmp_path: Path, signum: int) -> None:
    training = train.start(tmp_path, LONG, runtime=STOP)
    reached(training)
    os.kill(training.pid, signum)
    assert_stopped(training)


@pytest.mark.upstream
def test_workers_live_through_a_signal_to_the_whole_group_and_end_with_it(train: Trainer, tmp_path: Path) -> None:
    training = train.start(
        tmp_path, LONG, "max_data_loader_n_workers=2", "persistent_data_loader_workers=true", runtime=STOP
    )
    reached(training)
    os.killpg(training.pid, signal.SIGTERM)
    assert_stopped(training)
    left = subprocess.run(["pgrep", "-s", str(training.pid)], capture_output=True, text=True, check=False)
    assert left.stdout == ""


@pytest.mark.upstream
def test_the_file_stops_it_at_the_next_step_with_what_upstream_would_have_saved(
    train: Trainer, tmp_path: Path, plain: Training
) -> None:
    upstreams = train(tmp_path / "upstream", "save_every_n_steps=1", "save_state=true")
    assert upstreams.code == 0, upstreams.log
    flag = tmp_path / "stop"
    flag.touch()
    training = train.start(tmp_path / "stopped", runtime=STOP, env={"LORA_STOP_FILE": str(flag)})
    assert assert_stopped(training) == 1
    state = Path("smoke-step00000001-state")
    assert {path.name for path in (training.folder / state).iterdir()} == {
        "lora-passing",
        *(path.name for path in (upstreams.folder / state).iterdir()),
    }
    for file in ("model.safetensors", "train_state.json"):
        assert (training.folder / state / file).read_bytes() == (upstreams.folder / state / file).read_bytes()


@pytest.mark.upstream
@pytest.mark.parametrize("saves_states", [True, False])
def test_at_a_step_where_upstream_saves_it_saves_what_upstream_does(
    train: Trainer, tmp_path: Path, saves_states: bool
) -> None:
    flag = tmp_path / "stop"
    flag.touch()
    sets = ("save_every_n_steps=1", f"save_state={str(saves_states).lower()}")
    training = train.start(tmp_path, *sets, runtime=STOP, env={"LORA_STOP_FILE": str(flag)})
    assert training.wait() == 143, training.log
    assert (tmp_path / "smoke-step00000001.safetensors").exists()
    assert manifest.is_passing(tmp_path / "smoke-step00000001-state") != saves_states


@pytest.mark.upstream
def test_stopping_takes_no_earlier_checkpoint_away(train: Trainer, tmp_path: Path) -> None:
    sets = (LONG, "save_every_n_steps=3", "save_state=true", "save_last_n_steps=3")
    training = train.start(tmp_path, *sets, runtime=STOP)
    while len(training.of("step")) < 7:
        assert training.ends.empty(), training.log
    os.kill(training.pid, signal.SIGTERM)
    assert training.wait() == 143, training.log
    step = int(training.events[-1]["step"])
    saved = [step // 3 * 3 - 3, step // 3 * 3]
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {f"smoke-step{n:08d}.safetensors" for n in saved}


@pytest.mark.upstream
def test_asked_in_its_last_step_it_finishes(train: Trainer, tmp_path: Path) -> None:
    flag = tmp_path / "stop"
    flag.touch()
    done = train(tmp_path, "max_train_steps=1", runtime=STOP, env={"LORA_STOP_FILE": str(flag)})
    assert done.code == 0, done.log
    assert done.events[-1]["event"] == "end"


@pytest.mark.upstream
def test_without_it_a_signal_loses_the_work(train: Trainer, tmp_path: Path) -> None:
    training = train.start(tmp_path, LONG, runtime={"progress": {}})
    reached(training)
    os.kill(training.pid, signal.SIGTERM)
    assert training.wait() == -signal.SIGTERM
    assert list(tmp_path.glob("*-state")) == []


@pytest.mark.upstream
def test_armed_and_not_asked_it_changes_nothing(train: Trainer, tmp_path: Path, plain: Training) -> None:
    """Also where asking for the file is an error, as on a network disk that does not answer: here, its name is long."""
    done = train(tmp_path, runtime=STOP, env={"LORA_STOP_FILE": str(tmp_path / ("stop" * 100))})
    assert done.code == 0, done.log
    assert same(done.weights(), plain.weights())


@pytest.mark.upstream
def test_asked_of_one_rank_all_of_them_stop_at_the_same_step(train: Trainer, tmp_path: Path) -> None:
    ranks = start_ranks(train, tmp_path, 2, LONG, runtime=STOP)
    reached(ranks[1])
    os.kill(ranks[1].pid, signal.SIGTERM)
    assert_stopped(ranks[0])
    assert ranks[1].wait() == 143, ranks[1].log
