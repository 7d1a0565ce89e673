"""One attempt: a child process in a session of its own, watched until it has ended.

Child, clock and queue of `Attempt` are parameters, so that a test can script them and never waits.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

from lora_training import files
from lora_training.launch.spec import LaunchSpec
from lora_training.supervise import signals

# A line that the child wrote, or its exit code (negative: a signal).
Event = str | int

# How often the clock and the child's events are checked, in seconds.
TICK = 0.2
# How long to wait for the last lines of a child that has ended, in seconds.
_DRAIN_S = 5.0
_TAIL = 100


class Child(Protocol):
    """A child process; the tests use a scripted one."""

    def ask(self) -> None:
        """Ask it to save its state and exit."""

    def end(self) -> None:
        """Kill it and all processes that it started, at once."""


class Process:
    """A real child process. Its output lines and its exit code are put into `events`."""

    def __init__(self, spec: LaunchSpec, events: SimpleQueue[Event]) -> None:
        with signals.user_signals_ignored():
            self._popen = subprocess.Popen(
                spec.argv,
                cwd=spec.cwd,
                env=spec.environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # as text, a lone carriage return ends a line too, so progress meters come through
                encoding="utf-8",
                errors="replace",
                # a Ctrl-C on the terminal then reaches only this process, which decides how to stop the child
                start_new_session=True,
            )
        self._events = events
        self._is_over = False
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()
        Thread(target=self._wait, daemon=True).start()

    def ask(self) -> None:
        """Send SIGTERM to the child alone, on which it saves its state."""
        if self._popen.poll() is None:
            self._popen.terminate()

    def end(self) -> None:
        """Kill the whole session: the workers of data loaders outlive a crashed parent."""
        # when it is over, the process id may have been reused
        if not self._is_over:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, signal.SIGKILL)

    def _read(self) -> None:
        if self._popen.stdout:
            with self._popen.stdout as pipe:
                for line in pipe:
                    self._events.put(line.rstrip("\n"))

    def _wait(self) -> None:
        # wait for the child, not for the pipe: a process in another session may hold the pipe open longer
        code = self._popen.wait()
        self.end()
        self._is_over = True
        self._reader.join(_DRAIN_S)
        self._events.put(code)


class Tail:
    """Reads `events.jsonl` from its current end on, and passes each new object to `on_event`."""

    def __init__(self, path: Path, on_event: Callable[[dict[str, Any]], None]) -> None:
        files.touch(path)
        self._file = os.fdopen(files.opener(str(path), os.O_RDONLY), "rb")
        self._file.seek(0, os.SEEK_END)
        self._rest = b""
        self._on_event = on_event
        self.close = self._file.close

    def look(self) -> bool:
        """Read the new lines; return whether there were any."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            if event := files.parsed(line):
                self._on_event(event)
        return bool(lines)


@dataclass(frozen=True)
class Patience:
    """Timeouts in seconds: for a child that was asked to stop, and for one that makes no progress."""

    # drawing sample images between two steps takes minutes
    grace: float = 600.0
    stall: float | None = None


@dataclass(frozen=True)
class Ended:
    """How an attempt ended: exit code (negative: a signal), last lines, whether it stalled, and requests to stop."""

    code: int
    tail: tuple[str, ...] = ()
    stalled: bool = False
    asked: int = 0


@dataclass
class Attempt:
    """One attempt, watched to its end.

    `clock` is monotonic, in seconds. `wanted` returns how many times a stop was requested: the first request is passed
    on to the child by `ask`, and the child has `patience.grace` to save its state; the second kills it. `progress` is
    called at every tick and returns whether there was any since the last call; before the first progress, while models
    load and latents are cached, a line of output counts as well. `on_line` gets the child's output lines.
    """

    child: Child
    events: SimpleQueue[Event]
    clock: Callable[[], float]
    patience: Patience
    wanted: Callable[[], int]
    ask: Callable[[], None]
    progress: Callable[[], bool]
    on_line: Callable[[str], None]
    _tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL))

    def watch(self) -> Ended:
        """Follow the child until it has ended, with all processes that it started."""
        try:
            return self._loop()
        finally:
            self.child.end()

    def _loop(self) -> Ended:
        asked, deadline, stalled, trains = 0, float("inf"), False, False
        last = self.clock()
        while True:
            event = self._next()
            if isinstance(event, int):
                self.progress()
                # a batch system signals all processes of a job, so the child may end before its stop is noticed here
                return Ended(event, tuple(self._tail), stalled, max(asked, self.wanted()))
            now = self.clock()
            if self.progress():
                last, trains = now, True
            elif event is not None and not trains:
                last = now
            if self.patience.stall is not None and now - last > self.patience.stall and not stalled:
                stalled = True
                self.child.end()
            if self.wanted() > asked:
                asked = self.wanted()
                deadline = now + self.patience.grace
                self.ask()
            if asked > 1 or now > deadline:
                self.child.end()

    def _next(self) -> Event | None:
        """Return the next event, or None after a tick without one. A line is recorded at once."""
        try:
            event = self.events.get(timeout=TICK)
        except queue.Empty:
            return None
        if isinstance(event, str):
            self._tail.append(event)
            self.on_line(event)
        return event
