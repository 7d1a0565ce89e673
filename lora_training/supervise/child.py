"""One child process: started in its own session, read line by line, ended with all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

from lora_training.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from lora_training.launch.spec import LaunchSpec

# How long a child that was asked to end may take before it is killed, in seconds.
GRACE = 20.0


def run(spec: LaunchSpec, on_line: Callable[[str], None]) -> int:
    """Run the child to its end, handing each line of its output to `on_line`; its exit code (negative: a signal).

    SIGINT and SIGTERM to this process end the whole session of the child, asked first and killed after `GRACE`;
    then Interrupted is raised.
    """
    with _interruptible():
        # its own session: a Ctrl-C on the terminal reaches us alone, and we decide what becomes of the child
        child = subprocess.Popen(
            spec.argv,
            cwd=spec.cwd,
            env=os.environ | dict(spec.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # as text, a lone carriage return ends a line too, so progress meters come through
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        try:
            for line in child.stdout or ():
                on_line(line.rstrip("\n"))
            return child.wait()
        finally:
            _end_session(child)


def _end_session(child: subprocess.Popen[str]) -> None:
    """End whatever is left of the child's session: data loaders' workers outlive a crashed parent."""
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
