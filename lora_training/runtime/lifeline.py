"""End this process, and all of its group, when the supervisor is gone: nobody would ever end them otherwise."""

from __future__ import annotations

import os
import select
import signal
import threading
import time

# The supervisor's process id.
VARIABLE = "LORA_SUPERVISOR"
_POLL_S = 1.0


def hold() -> None:
    """Watch the supervisor from a thread of its own, if there is one to watch."""
    pid = os.environ.get(VARIABLE, "")
    if pid.isdecimal():
        threading.Thread(target=_watch, args=(int(pid),), daemon=True).start()


def _watch(pid: int) -> None:
    _wait(pid)
    # the data loaders' workers are in our group
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _wait(pid: int) -> None:
    """Return when process `pid` has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):
        _poll(pid)
        return
    select.select([descriptor], [], [])


def _poll(pid: int) -> None:
    """The same where the kernel has no descriptors for processes."""
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        except PermissionError:
            pass
        time.sleep(_POLL_S)
