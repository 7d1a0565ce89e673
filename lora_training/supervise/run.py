"""One training from its start to a verified LoRA, with restarts where they may help."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import queue
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from lora_training import files
from lora_training.errors import Interrupted, MachineLost, TrainingError
from lora_training.launch.spec import LaunchSpec
from lora_training.supervise import attempt, digests, failures, record, result, signals, states
from lora_training.supervise.attempt import Attempt, Ended, Patience, Tail
from lora_training.supervise.failures import Failure
from lora_training.supervise.machines import LOST_S, Machines
from lora_training.supervise.result import Result
from lora_training.supervise.states import State

_BACKOFF_S = 2.0
# lines of the log that an error message shows
_LAST_LINES = 5
# messages of the processes of one machine when those of another have gone
_LOST_CONTACT = re.compile(
    r"[Cc]onnection (?:closed|reset|refused)|gloo|NCCL|TCPStore|[Rr]endezvous|DistNetworkError|Broken pipe|with code"
)
_SUPERVISOR = "LORA_SUPERVISOR"


class Watcher(Protocol):
    """The receiver of a run's output and events, and of the messages before its start: the terminal."""

    def line(self, text: str) -> None:
        """A line that the child wrote."""

    def event(self, event: dict[str, Any]) -> None:
        """An object of `events.jsonl`; an `attempt` means that a child is about to start, from step `from_step`."""

    def note(self, text: str) -> None:
        """A message of the supervisor."""

    def say(self, *lines: str) -> None:
        """Lines to be shown as they are, such as a warning."""

    def progress(self, text: str) -> None:
        """The current step before the start, shown in place of the last one; an empty text removes it."""


@dataclass(frozen=True)
class SupervisedRun:
    """What to run, and how often to restart it. `made_by`: digests, by name, of the inputs that identify this run.

    `sees_stop_file`: once it trains, the child saves its state and exits when the file `record.STOP` exists. `machine`
    is the number of this one of `machines`, which share the folder of the LoRA; number 0 has the run's main folder.
    `starts_anew`: the same command would start the run again from the beginning. `lacks` names the runtime patches that
    a stop needs to save the state, and that the training does without.
    """

    spec: LaunchSpec
    config: Path
    output: Path
    folder: Path
    made_by: Mapping[str, str]
    retries: int = 3
    patience: Patience = field(default_factory=Patience)
    sees_stop_file: bool = True
    machine: int = 0
    machines: int = 1
    starts_anew: bool = False
    lacks: tuple[str, ...] = ()
    # initial fields of the `record.Record`
    began: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stop_files(self) -> tuple[Path, ...]:
        """The files that ask for a stop: the one that every machine's processes watch, then this machine's own."""
        return tuple(dict.fromkeys((self.output.with_suffix(".run") / record.STOP, self.folder / record.STOP)))

    def attempt(self, state: State | None) -> LaunchSpec:
        """Return the command of the child to start, from the beginning or from a state."""
        argv = (*self.spec.argv, *states.flags(state))
        return replace(self.spec, argv=argv, env={**self.spec.env, _SUPERVISOR: str(os.getpid())})


@dataclass
class Supervisor:
    """A run in progress. Use it inside `record.alone(run.folder)`."""

    run: SupervisedRun
    watcher: Watcher
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    start: Callable[[LaunchSpec, queue.SimpleQueue[Any]], attempt.Child] = attempt.Process
    _began: bool = False
    _has_trained: bool = False
    _told: bool = False
    _gone: str | None = None
    _reported: tuple[int, int] | None = None

    def go(self, state: State | None) -> Result:
        """Train, from `state` if there is one, until there is a valid LoRA.

        Raises TrainingError with the cause in one sentence, and Interrupted when asked to stop.
        """
        run = self.run
        names = (run.folder.stem, str(run.config), str(run.output), run.spec.shell())
        self.record = record.Record(*names, dict(run.made_by), pid=os.getpid(), **run.began)
        before = result.fingerprint(run.output)
        self._machines = Machines(run.output.with_suffix(".run"), run.machine, run.machines, self.clock)
        # counted until the record is closed, since a terminal that closes sends SIGHUP more than once
        with signals.counted() as self._asked:
            try:
                self._attempts(state)
                found = result.check(run.output, before=before, told=self._reported)
            except (TrainingError, Interrupted) as exc:
                self._close("failed" if isinstance(exc, TrainingError) else "stopped", exc.message)
                raise
            except OSError as exc:
                raise self._lost(exc) from exc
            states.clear_passing(run.output)
            self.record.result = {"path": str(found.path), "steps": found.steps, "tensors": found.tensors}
            self.record.result |= digests.record_lora(found.path, run.folder)
            self._close("complete", None)
            return found

    def _lost(self, exc: OSError) -> Exception:
        """Return the error to raise when the run's own folder cannot be written: it was moved, or its disk is full."""
        with contextlib.suppress(OSError):
            self._close("failed", str(exc))
        if files.is_disk_full(exc):
            return exc
        hint = "was it moved or removed? what has been trained so far is still where the training wrote it"
        return TrainingError(f"the run's folder cannot be written to: {exc.filename}: {exc.strerror}", hint=hint)

    def _attempts(self, state: State | None) -> None:
        failed, repeated = 0, None
        while True:
            self._began = False
            ended = self._attempt(state)
            if ended.code == 0:
                return
            if ended.asked and not self._gone:
                raise self._interrupted()
            failure = failures.classify(ended)
            if self.run.machines > 1:
                raise self._apart(ended, failure)
            newest = states.newest(self.run.output, self._report_passed_over, self.run.made_by) or state
            # only a newer state is progress: a run that fails at the same place each time is given up
            failed = 0 if _step(newest) > _step(state) else failed + 1
            step = self._reported[0] if self._began and self._reported else 0
            before, repeated = repeated, (failure.exception, step) if failure.exception else None
            if failed and repeated and repeated == before:
                raise self._gave_up(ended, failure, again=f", twice at the same step ({repeated[1]})")
            # a failure before any training is most likely permanent; after some training it may be temporary
            if not (failure.restartable and self._has_trained) or failed > self.run.retries:
                raise self._gave_up(ended, failure)
            state = newest
            self._note(failure.sentence)
            self._note(f"starting again from step {_step(state)} (attempt {len(self.record.attempts) + 1})")
            self.record.attempts[-1]["death"] = failure.kind
            self._event("restart", from_step=_step(state), death=failure.kind, why=failure.sentence)
            self._rest(_BACKOFF_S * 2**failed)

    def _attempt(self, state: State | None) -> Ended:
        # a path that no earlier attempt has used, in earlier runs of the same command either
        logs = (self.run.folder / f"attempt-{number}.log" for number in itertools.count(1))
        log_path = next(path for path in logs if not os.path.lexists(path))
        states.clear_passing(self.run.output, before=_step(state))
        self.record.attempts.append({"log": str(log_path), "from_step": _step(state), "started": time.time()})
        self.record.save(self.run.folder)
        self._event("attempt", number=len(self.record.attempts), from_step=_step(state), log=str(log_path))
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with (
            open(log_path, "x", encoding="utf-8", opener=files.opener) as log,
            contextlib.closing(Tail(self.run.folder / record.EVENTS, self._on_event)) as tail,
        ):

            def on_line(line: str) -> None:
                log.write(line + "\n")
                log.flush()
                self.watcher.line(line)

            child = self.start(self.run.attempt(state), events)
            ask = functools.partial(self._ask, child)
            patience = self.run.patience
            ended = Attempt(child, events, self.clock, patience, self._wanted, ask, tail.look, on_line).watch()
        self.record.attempts[-1] |= {"ended": time.time(), "code": ended.code}
        self.record.save(self.run.folder)
        return ended

    def _report_passed_over(self, state: Path, why: str) -> None:
        self._note(f"passing over {state}: {why}")

    def _on_event(self, event: dict[str, Any]) -> None:
        match event.get("event"):
            case "start":
                self._began = self._has_trained = True
                self._reported = (event.get("initial_step", 0), event["total_steps"])
            case "step" if self._reported:
                self._reported = (event["step"], self._reported[1])
        self.watcher.event(event)

    def _wanted(self) -> int:
        if self._asked.count == 1 and not self._told:
            self._told = True
            if self.run.lacks:
                self._note(
                    f"leaving; without {' and '.join(self.run.lacks)}, the work since the last state may be lost"
                )
            elif self._began:
                wait = f"{self.run.patience.grace / 60:.0f} minutes"
                self._note(f"saving the state after this step (at most {wait}), then leaving; ask again to end at once")
            else:
                self._note("it has not begun to train, so there is nothing to save; leaving")
        self._machines.beat()
        self._gone = self._gone or self._machines.gone()
        if self._gone:
            # at once: without it, no step can be finished
            return 2
        return max(self._asked.count, int(any(path.exists() for path in self.run.stop_files)))

    def _ask(self, started: attempt.Child) -> None:
        """Ask the child to save its state: by the stop file, which every rank checks and no launcher cuts short."""
        try:
            if self._began and self.run.sees_stop_file:
                files.touch(self.run.stop_files[0])
                return
        except OSError:
            # on a full disk, for example
            self._note("the stop file cannot be written, so the training gets a signal")
        started.ask()

    def _rest(self, seconds: float) -> None:
        until = self.clock() + seconds
        while self.clock() < until:
            if self._wanted():
                raise self._interrupted()
            self.sleep(min(0.2, seconds))

    def _interrupted(self) -> Interrupted:
        state = states.newest(self.run.output, made_by=self.run.made_by)
        if state:
            how = "with `--resume auto` goes on" if self.run.starts_anew else "goes on"
            message = f"stopped at step {state.step}, state saved; the same command {how}"
        else:
            start = f"step {self.record.start['step']}" if self.record.start else "the beginning"
            message = f"stopped before a state was saved; the same command starts again from {start}"
        by_signal = self._asked.count > 0
        return Interrupted(message, signum=self._asked.signum, by_signal=by_signal, has_state=state is not None)

    def _apart(self, ended: Ended, failure: Failure) -> TrainingError:
        """Return the error of one of several machines: the other that is gone, if contact was lost, or its own failure.

        They are not restarted: each would have to choose the same state, at the same time.
        """
        if self._gone is None and not _LOST_CONTACT.search(failure.sentence):
            self._machines.beat(ended=failure.sentence)
            return self._gave_up(ended, failure)
        until = self.clock() + LOST_S + 5
        while self._gone is None and self.clock() < until:
            self.sleep(0.2)
            self._machines.beat()
            self._gone = self._machines.gone()
        why = self._gone or self._machines.never_seen()
        self._machines.beat(ended=why or failure.sentence)
        if why is None:
            return self._gave_up(ended, failure)
        error = MachineLost if self._machines.is_silent else TrainingError
        return error(why, hint="start it again on each machine; all continue from the newest state")

    def _gave_up(self, ended: Ended, failure: Failure, *, again: str = "") -> TrainingError:
        log = self.record.attempts[-1]["log"]
        self.record.attempts[-1]["death"] = failure.kind
        last = [f"  {line}" for line in ended.tail[-_LAST_LINES:]]
        hint = [failure.mend, *(["the log ends:", *last, f"the whole log is {log}"] if last else [])]
        return TrainingError(f"{failure.sentence}{again}", hint="\n".join(hint))

    def _close(self, state: str, why: str | None) -> None:
        self.record.state, self.record.why = state, why
        self.record.save(self.run.folder)
        self._event("closed", state=state, why=why)

    def _note(self, text: str) -> None:
        """Print a message and append it to the run's events."""
        record.append_event(self.run.folder / record.EVENTS, "note", text=text)
        self.watcher.note(text)

    def _event(self, kind: str, **fields: Any) -> None:
        """Append an event of the supervisor to the file of events, and pass it to the watcher."""
        record.append_event(self.run.folder / record.EVENTS, kind, **fields)
        self.watcher.event({"event": kind, **fields})


def _step(state: State | None) -> int:
    return state.step if state else 0
