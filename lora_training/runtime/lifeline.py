"""End this process, and all of its group, when the supervisor is gone: nobody would ever end them otherwise."""

from __future__ import annotations

import os
import select
import signal
import threading
import time

# The supervisor's process id.
VARIABLE = "LORA_SUPERVISOR"
# torch.distributed's own name; set where a launcher has started several of us.
RANK = "RANK"
_POLL_S = 1.0


def hold() -> None:
    """Watch the supervisor, if there is one, and a rank's launcher, each from a thread of its own."""
    pid = os.environ.get(VARIABLE, "")
    watched = [int(pid)] if pid.isdecimal() else []
    if RANK in os.environ:
        # accelerate's launcher gives each rank a session of its own, so nobody else ends it with the launcher
        watched.append(os.getppid())
    for each in watched:
        threading.Thread(target=_watch, args=(each,), daemon=True).start()


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
