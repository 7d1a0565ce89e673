"""Start COUNT ranks on this machine: `python -m lora_training.runtime.ranks COUNT SCRIPT [FLAGS]`.

The ranks find each other through a file (`patches/ranks.py`), so no port is needed. When one is killed by a signal, all
are ended. SIGTERM is passed on to each.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from lora_training import proc
from lora_training.runtime import bootstrap
from lora_training.runtime.patches import ranks as meeting

# How long the other ranks may keep running after one has exited with an error, in seconds.
_LEAVE_S = 10.0


def main(argv: Sequence[str]) -> int:
    """Wait for all ranks; return the first exit code that is not 0, negative for a signal."""
    count, *command = argv
    bootstrap.end_with_parents()
    ranks: list[subprocess.Popen[bytes]] = []

    def pass_on(_signum: int, _frame: FrameType | None) -> None:
        for rank in ranks:
            rank.terminate()

    signal.signal(signal.SIGTERM, pass_on)
    # the terminal sends Ctrl-C to the ranks itself
    signal.signal(signal.SIGINT, lambda _signum, _frame: None)
    with tempfile.TemporaryDirectory(prefix="lora-ranks-") as folder:
        ranks.extend(_start(rank, int(count), Path(folder) / "store", command) for rank in range(int(count)))
        return _watch(ranks)


def _start(rank: int, count: int, store: Path, command: Sequence[str]) -> subprocess.Popen[bytes]:
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    env = os.environ | {name: str(value) for name, value in places.items()} | {meeting.VARIABLE: str(store)}
    return subprocess.Popen([*proc.module("lora_training.runtime"), *command], env=env)


def _watch(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all ranks, but kill the rest after a death by a signal, or `_LEAVE_S` after an error."""
    ends: queue.SimpleQueue[int] = queue.SimpleQueue()
    for rank in ranks:
        threading.Thread(target=_report, args=(rank, ends), daemon=True).start()
    bad = 0
    try:
        for _ in ranks:
            code = ends.get(timeout=_LEAVE_S if bad else None)
            bad = bad or code
            if code < 0:
                break
    except queue.Empty:
        pass
    for rank in ranks:
        rank.kill()
        rank.wait()
    return bad


def _report(rank: subprocess.Popen[bytes], ends: queue.SimpleQueue[int]) -> None:
    ends.put(rank.wait())


def _leave(code: int) -> None:
    """Exit as the first failed rank did, so that the parent process can tell a signal from an exit code."""
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    _leave(main(sys.argv[1:]))
