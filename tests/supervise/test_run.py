"""Whole runs with a real child process: a small script that reports, saves states and dies as it is told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lora_training import locks, manifest
from lora_training.errors import ConfigError, Interrupted, LoraError, TrainingError
from lora_training.launch.spec import LaunchSpec
from lora_training.supervise import digests, record, states
from lora_training.supervise.attempt import Patience
from lora_training.supervise.run import SupervisedRun, Supervisor
from tests.helpers import ROOT
from tests.supervise.test_child import gone

safetensors_file = pytest.importorskip("safetensors.numpy").save_file
np = pytest.importorskip("numpy")

ME = {"config": "c"}
TRAINER = """
import json, os, signal, sys, time
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from lora_training import manifest
out, plan = Path(sys.argv[1]), json.loads(sys.argv[2])
begin = manifest.read(Path(sys.argv[4])).step if len(sys.argv) > 4 else 0
def emit(**event):
    with open(os.environ["LORA_EVENTS"], "a") as file: file.write(json.dumps(event) + "\\n")
def lora(path, steps):
    save_file({"a.lora_up.weight": np.ones(3, np.float32)}, path, {"ss_steps": str(steps), "ss_max_train_steps": "6"})
if plan.get("at_import") == begin: sys.exit(1)
emit(event="start", total_steps=6)
for step in range(begin + 1, 7):
    emit(event="step", step=step)
    print("step", step, flush=True)
    if step % 2 == 0:
        folder = out.with_name(f"{out.stem}-step{step:08d}-state")
        folder.mkdir(exist_ok=True)
        save_file({"w": np.ones(2, np.float32)}, folder / "model.safetensors")
        manifest.write(folder, step=step, made_by={"config": "c"})
    todo = plan.get(str(step))
    once = Path(f"{out}.{step}")
    if isinstance(todo, list):
        # one for each time that it gets here
        before = once.stat().st_size if once.exists() else 0
        with once.open("a") as file: file.write("x")
        todo = dict(enumerate(todo)).get(before)
    if todo and not (todo.get("once") and once.exists()):
        once.touch()
        if "say" in todo: print(todo["say"], flush=True)
        if "hang" in todo:
            while not Path(os.environ["LORA_EVENTS"]).with_name(todo["hang"]).exists(): time.sleep(0.02)
        os._exit(todo.get("code", 1)) if "kill" not in todo else os.kill(os.getpid(), todo["kill"])
lora(out, plan.get("steps", 6))
"""


@dataclass
class Notes:
    said: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def line(self, text: str) -> None:
        pass

    def note(self, text: str) -> None:
        self.said.append(text)

    def event(self, event: dict[str, Any]) -> None:
        if event["event"] == "step":
            self.steps.append(event["step"])


@dataclass
class Bench:
    folder: Path
    notes: Notes = field(default_factory=Notes)

    @property
    def output(self) -> Path:
        return self.folder / "cats.safetensors"

    def order(self, plan: dict[str, Any], **more: Any) -> SupervisedRun:
        run_folder = self.output.with_suffix(".run")
        env = {"LORA_EVENTS": str(run_folder / record.EVENTS), "PYTHONPATH": str(ROOT)}
        # the flags that come after it on a resume are --resume PATH --skip_until_initial_step
        argv = (sys.executable, "-c", TRAINER, str(self.output), json.dumps(plan))
        order = SupervisedRun(LaunchSpec(argv, env, self.folder), Path("cats.toml"), self.output, run_folder, ME)
        return replace(order, **more)

    def go(self, plan: dict[str, Any], **more: Any) -> Any:
        order = self.order(plan, **more)
        state = states.newest(self.output)
        with record.alone(order.folder):
            return Supervisor(order, self.notes, sleep=lambda _seconds: None).go(state)

    @property
    def record(self) -> record.Record:
        found = record.read(self.output.with_suffix(".run"))
        assert found is not None
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_training.supervise.run._BACKOFF_S", 0.0)


def test_a_training_that_goes_well_is_one_attempt(bench: Bench) -> None:
    assert bench.go({}).steps == 6
    assert bench.notes.steps == [1, 2, 3, 4, 5, 6]
    assert (bench.record.state, len(bench.record.attempts)) == ("complete", 1)


def test_a_crash_is_started_again_from_the_newest_state(bench: Bench) -> None:
    assert bench.go({"5": {"once": True}}).steps == 6
    assert bench.notes.steps == [1, 2, 3, 4, 5, 5, 6]
    assert [attempt["from_step"] for attempt in bench.record.attempts] == [0, 4]


def test_a_kill_from_outside_is_started_again(bench: Bench) -> None:
    assert bench.go({"3": {"once": True, "kill": signal.SIGKILL}}).steps == 6
    assert bench.record.attempts[0]["code"] == -9


def test_a_restart_takes_no_state_that_another_run_made(bench: Bench) -> None:
    folder = bench.folder / "cats-step00000099-state"
    folder.mkdir()
    safetensors_file({"w": np.ones(2, np.float32)}, folder / "model.safetensors")
    manifest.write(folder, step=99, made_by={"config": "another"})
    order = bench.order({"1": {"once": True}})
    with record.alone(order.folder):
        assert Supervisor(order, bench.notes, sleep=lambda _seconds: None).go(None).steps == 6
    assert [attempt["from_step"] for attempt in bench.record.attempts] == [0, 0]


def test_one_that_dies_at_the_same_place_each_time_is_given_up(bench: Bench) -> None:
    with pytest.raises(TrainingError, match="code 1"):
        bench.go({"3": {"code": 1}}, retries=2)
    # the first attempt made progress, to step 2; none after it did
    assert [attempt["from_step"] for attempt in bench.record.attempts] == [0, 2, 2, 2]
    assert bench.record.state == "failed"


def test_the_same_exception_at_the_same_step_is_not_tried_a_third_time(bench: Bench) -> None:
    with pytest.raises(TrainingError, match=r"ValueError: at 0x12ab, twice at the same step \(3\)"):
        bench.go({"3": {"say": "ValueError: at 0x12ab"}})
    assert [attempt["from_step"] for attempt in bench.record.attempts] == [0, 2]
    assert bench.record.why is not None
    assert "twice" in bench.record.why


@pytest.mark.parametrize(
    "said",
    [
        "RuntimeError: CUDA error: an illegal memory access was encountered",
        "RuntimeError: DataLoader worker (pid 12) is killed by signal: Killed.",
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
    ],
)
def test_what_another_start_may_mend_is_tried_to_the_end(bench: Bench, said: str) -> None:
    with pytest.raises(TrainingError):
        bench.go({"3": {"say": said}}, retries=2)
    assert [attempt["from_step"] for attempt in bench.record.attempts] == [0, 2, 2, 2]


def test_another_exception_is_another_death(bench: Bench) -> None:
    assert bench.go({"3": [{"say": f"{name}Error: it"} for name in ("Value", "Key", "Value")]}).steps == 6
    assert [attempt["from_step"] for attempt in bench.record.attempts] == [0, 2, 2, 2]


def test_the_same_exception_further_on_is_another_death(bench: Bench) -> None:
    once = {"say": "ValueError: it", "once": True}
    assert bench.go({"3": once, "5": once}).steps == 6
    assert [attempt["from_step"] for attempt in bench.record.attempts] == [0, 2, 4]


def test_one_that_dies_before_it_began_is_not_started_again(bench: Bench) -> None:
    with pytest.raises(TrainingError):
        bench.go({"at_import": 0})
    assert len(bench.record.attempts) == 1


def test_one_that_has_trained_may_fail_to_start_once_more(bench: Bench) -> None:
    with pytest.raises(TrainingError):
        bench.go({"3": {"code": 1}, "at_import": 2}, retries=2)
    assert [attempt["from_step"] for attempt in bench.record.attempts] == [0, 2, 2, 2]


def test_what_no_restart_mends_is_reported_at_once(bench: Bench) -> None:
    with pytest.raises(TrainingError, match="disk is full"):
        bench.go({"3": {"say": "OSError: [Errno 28] No space left on device"}})
    assert len(bench.record.attempts) == 1


def test_a_training_that_hangs_is_ended_and_started_again(bench: Bench) -> None:
    assert bench.go({"3": {"once": True, "hang": "nothing"}}, patience=Patience(stall=1.5)).steps == 6
    assert any("no progress" in note for note in bench.notes.said)


def test_one_that_stops_short_is_no_success(bench: Bench) -> None:
    with pytest.raises(TrainingError, match="4 of 6"):
        bench.go({"steps": 4})


def stopped_at(bench: Bench, order: SupervisedRun, step: int, ask: Callable[[], object]) -> Interrupted:
    """Run it, ask for a stop at a step, and return the error with which it ends."""

    def event(told: dict[str, Any]) -> None:
        if told.get("step") == step:
            ask()

    bench.notes.event = event  # type: ignore[method-assign] - the one thing that differs
    with record.alone(order.folder), pytest.raises(Interrupted) as caught:
        Supervisor(order, bench.notes).go(None)
    return caught.value


@pytest.mark.parametrize("sees_stop_file", [True, False])
def test_asked_to_stop_from_elsewhere_it_stops(bench: Bench, sees_stop_file: bool) -> None:
    order = bench.order({"3": {"hang": "stop" if sees_stop_file else "nothing"}}, sees_stop_file=sees_stop_file)
    interrupted = stopped_at(bench, order, 3, (order.folder / record.STOP).touch)
    assert interrupted.exit_code == 143
    assert "step 2" in str(interrupted)
    assert bench.record.state == "stopped"


def test_asked_to_stop_without_the_patches_for_it_it_promises_no_state(bench: Bench) -> None:
    order = bench.order({"3": {"hang": "nothing"}}, sees_stop_file=False, lacks=("graceful-stop",))
    stopped_at(bench, order, 3, partial(signal.raise_signal, signal.SIGINT))
    assert bench.notes.said == ["leaving; without graceful-stop, the work since the last state may be lost"]


@pytest.mark.parametrize(("start", "place"), [(None, "the beginning"), ({"path": "/x", "step": 7}, "step 7")])
def test_stopped_before_a_state_was_saved_it_says_where_the_command_starts_again(
    bench: Bench, start: dict[str, Any] | None, place: str
) -> None:
    order = bench.order({"1": {"hang": "stop"}}, began={"start": start})
    interrupted = stopped_at(bench, order, 1, (order.folder / record.STOP).touch)
    assert interrupted.message == f"stopped before a state was saved; the same command starts again from {place}"


def test_a_run_whose_folder_is_moved_away_says_so(bench: Bench) -> None:
    order = bench.order({"2": {"kill": signal.SIGKILL}})

    def move(event: dict[str, Any]) -> None:
        if event.get("step") == 2:
            order.folder.rename(order.folder.with_name("elsewhere"))

    bench.notes.event = move  # type: ignore[method-assign] - the one thing that differs
    with record.alone(order.folder), pytest.raises(TrainingError, match="cannot be written to") as caught:
        Supervisor(order, bench.notes).go(None)
    assert "moved" in str(caught.value.hint)


def test_two_runs_on_one_output_are_one_too_many(bench: Bench) -> None:
    order = bench.order({})
    with record.alone(order.folder):
        assert record.is_alive(order.folder)
        with pytest.raises(LoraError, match="another run"), record.alone(order.folder):
            pass
    assert not record.is_alive(order.folder)


def test_a_folder_in_which_nothing_was_written_is_removed_with_those_above_it(tmp_path: Path) -> None:
    with record.alone(tmp_path / "out" / "deep" / "cats.run"):
        assert record.is_alive(tmp_path / "out" / "deep" / "cats.run")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    with record.alone(tmp_path / "empty" / "cats.run"):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]
    with record.alone(tmp_path / "cats.run"):
        (tmp_path / "cats.run" / "run.json").touch()
    assert (tmp_path / "cats.run" / "lock").exists()


def test_a_lock_that_another_start_has_just_removed_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, taken, real = tmp_path / "cats.run", [], locks.acquire

    def acquire(fd: int, **how: bool) -> bool:
        if not taken:
            # as a start does that is refused between this one's opening of the file and its lock on it
            shutil.rmtree(folder)
        taken.append(fd)
        return real(fd, **how)

    monkeypatch.setattr(locks, "acquire", acquire)
    with record.alone(folder):
        assert record.is_alive(folder)
    assert len(taken) == 3


def test_an_output_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="Not a directory"), record.alone(tmp_path / "file" / "cats.run"):
        pass
    (tmp_path / "dogs.run" / "lock").mkdir(parents=True)
    for name, there in (("file", "file"), ("dogs.run", "dogs.run/lock")):
        with pytest.raises(ConfigError, match=f"{there} is in the way"), record.alone(tmp_path / name):
            pass


def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n")
    parent = """
import os, subprocess, sys
env = os.environ | {"LORA_SUPERVISOR": str(os.getpid())}
subprocess.run([sys.executable, "-m", "lora_training.runtime", sys.argv[1]], env=env, start_new_session=True)
"""
    argv = [sys.executable, "-c", parent, str(tmp_path / "script.py")]
    supervisor = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    pid = int(supervisor.stdout.readline())
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait()
    assert gone(pid)


def test_the_events_tell_of_every_attempt_and_the_end(bench: Bench) -> None:
    bench.go({"5": {"once": True}})
    lines = (bench.output.with_suffix(".run") / record.EVENTS).read_text(encoding="utf-8").splitlines()
    told = [event for event in map(json.loads, lines) if event["event"] in ("attempt", "restart", "closed")]
    assert [event["event"] for event in told] == ["attempt", "restart", "attempt", "closed"]
    assert (told[1]["from_step"], told[1]["death"], told[3]["state"]) == (4, "unknown", "complete")
    assert [event["number"] for event in told if event["event"] == "attempt"] == [1, 2]


def test_the_result_has_the_digests_of_the_lora(bench: Bench) -> None:
    bench.go({})
    result = bench.record.result
    assert result
    assert len(result["sha256"]) == len(result["tensors_sha256"]) == 64
    assert digests.recorded_tensors(bench.output.with_suffix(".run")) == digests.of_tensors(bench.output)


def test_a_run_that_is_gone_on_with_keeps_its_earlier_attempts(bench: Bench) -> None:
    bench.go({}, began={"attempts": [{"log": "attempt-1.log", "from_step": 0, "code": 143}]})
    assert [attempt.get("code") for attempt in bench.record.attempts] == [143, 0]
