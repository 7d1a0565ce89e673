"""Kill this process and its process group when the supervisor has ended, so that no training is left behind."""

from __future__ import annotations

import os
import select
import signal
import threading
import time

# The supervisor's process id.
VARIABLE = "LORA_SUPERVISOR"
# torch.distributed's variable, set where a launcher has started several processes of one training.
RANK = "RANK"
_POLL_S = 1.0


def hold() -> None:
    """Watch the supervisor, if there is one, and the launcher of a rank, each in its own thread."""
    pid = os.environ.get(VARIABLE, "")
    watched = [int(pid)] if pid.isdecimal() else []
    if RANK in os.environ:
        # accelerate's launcher starts each rank in its own session, so a rank does not end with the launcher by itself
        watched.append(os.getppid())
    for each in watched:
        threading.Thread(target=_watch, args=(each,), daemon=True).start()


def _watch(pid: int) -> None:
    _wait(pid)
    # the workers of the data loaders are in the same process group
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
    """Return when process `pid` has ended, on a system without `pidfd_open`."""
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        except PermissionError:
            pass
        time.sleep(_POLL_S)
