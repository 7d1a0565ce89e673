"""One child process: started in its own session, read line by line, ended with all that it started."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
from typing import TYPE_CHECKING

from lora_training.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from lora_training.launch.spec import LaunchSpec

# How long a child that was asked to end may take before it is killed, in seconds.
GRACE = 20.0

# A line the child wrote, or None: it has ended.
_Events = queue.SimpleQueue["str | None"]


def run(spec: LaunchSpec, on_line: Callable[[str], None]) -> int:
    """Run the child to its end, handing each line of its output to `on_line`; its exit code (negative: a signal).

    When the child ends, whatever is left of its session is ended too. SIGINT and SIGTERM to this process end the
    whole session, asked first and killed after `GRACE` seconds; then Interrupted is raised.
    """
    with _interruptible():
        child = _start(spec)
        events: _Events = queue.SimpleQueue()
        reader = _thread(_read, child, events)
        try:
            # the child's end counts, not the pipe's: a worker that outlives its parent holds the pipe open
            _thread(_wait, child, events)
            while (line := events.get()) is not None:
                on_line(line)
        finally:
            _end_session(child)
        reader.join()
        while not events.empty():
            on_line(events.get() or "")
        return child.returncode


def _start(spec: LaunchSpec) -> subprocess.Popen[str]:
    return subprocess.Popen(
        spec.argv,
        cwd=spec.cwd,
        env=os.environ | dict(spec.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # as text, a lone carriage return ends a line too, so progress meters come through
        encoding="utf-8",
        errors="replace",
        # a Ctrl-C on the terminal reaches us alone, and we decide what becomes of the child
        start_new_session=True,
    )


def _thread(work: Callable[[subprocess.Popen[str], _Events], None], *args: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=args, daemon=True)
    thread.start()
    return thread


def _read(child: subprocess.Popen[str], events: _Events) -> None:
    if child.stdout:
        with child.stdout as pipe:
            for line in pipe:
                events.put(line.rstrip("\n"))


def _wait(child: subprocess.Popen[str], events: _Events) -> None:
    child.wait()
    events.put(None)


def _end_session(child: subprocess.Popen[str]) -> None:
    _signal_session(child, signal.SIGTERM)
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _signal_session(child, signal.SIGKILL)
        child.wait()


def _signal_session(child: subprocess.Popen[str], signum: int) -> None:
    try:
        os.killpg(child.pid, signum)
    except ProcessLookupError:
        return


class _interruptible:  # noqa: N801 - reads as a statement
    """Within the block, SIGINT and SIGTERM raise Interrupted; a second one, during the clean-up, is the default's."""

    def __enter__(self) -> None:
        self._before = {signum: signal.signal(signum, self._raise) for signum in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _raise(self, signum: int, _frame: FrameType | None) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
        raise Interrupted(f"training was ended by {signal.Signals(signum).name}", signum=signum)
