"""One child process: started in its own session, read line by line, killed with all its descendants."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from queue import SimpleQueue

    from lora_training.launch.spec import LaunchSpec
    from lora_training.supervise.loop import Event


# How long to wait for the last lines of a child that has ended, in seconds.
_DRAIN_S = 5.0


class Child(Protocol):
    """The interface of a child process for the loop; the tests use a scripted one."""

    def ask(self) -> None:
        """Ask it to save its state and exit."""

    def end(self) -> None:
        """Kill it and all processes that it started, at once."""


class Process:
    """A real child process. Its output lines and its exit code are put into `events`."""

    def __init__(self, spec: LaunchSpec, events: SimpleQueue[Event]) -> None:
        self._popen = subprocess.Popen(
            spec.argv,
            cwd=spec.cwd,
            env=os.environ | dict(spec.env) | dict(spec.secrets),
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
        self._reader = _thread(self._read)
        _thread(self._wait)

    def ask(self) -> None:
        """Send SIGTERM to the child alone, on which it saves its state."""
        if self._popen.poll() is None:
            self._popen.terminate()

    def end(self) -> None:
        """Kill the whole session: the workers of data loaders outlive a crashed parent."""
        if self._is_over:
            # the process id may have been reused
            return
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return

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


def _thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
