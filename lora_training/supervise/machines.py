"""Signs of life of the machines that train together, in a folder that they share: which of them is gone, and why."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_training import files

_BEAT_S = 2.0
# after so long without a sign of life, in seconds, a machine counts as gone
LOST_S = 40.0


@dataclass
class Machines:
    """The machines of one training, seen from that of number `rank`. `clock` is monotonic; theirs need not agree.

    Each writes a file of its own again and again, in place, so that a network file system shows the others its content.
    """

    folder: Path
    rank: int = 0
    count: int = 1
    clock: Callable[[], float] = time.monotonic
    _beats: int = 0
    _due: float = 0.0
    # for each other machine, its first sign, which may be of an earlier run; and a later one with the time when it came
    _first: dict[int, dict[str, Any]] = field(default_factory=dict)
    _alive: dict[int, tuple[dict[str, Any], float]] = field(default_factory=dict)
    # set if the machine of `gone` gives no sign of life, as after the loss of a node
    is_silent: bool = False

    def beat(self, *, ended: str | None = None) -> None:
        """Give a sign of life, if one is due, or the reason why this machine has ended; and look at the others'."""
        if self.count == 1 or (self.clock() < self._due and ended is None):
            return
        self._due, self._beats = self.clock() + _BEAT_S, self._beats + 1
        sign = {"host": socket.gethostname(), "pid": os.getpid(), "beat": self._beats, "ended": ended}
        # a full disk does not end the training
        with contextlib.suppress(OSError), open(self._file(self.rank), "wb", opener=files.opener) as file:
            file.write(json.dumps(sign).encode())
        for rank in range(self.count):
            if rank != self.rank:
                self._look(rank)

    def _look(self, rank: int) -> None:
        sign = files.read_json(self._file(rank))
        before, _ = self._alive.get(rank, (self._first.setdefault(rank, sign), 0.0))
        if sign and sign != before:
            self._alive[rank] = (sign, self.clock())

    def gone(self) -> str | None:
        """Return a sentence about a machine that was there and has ended or gives no sign of life."""
        for rank, (found, seen) in self._alive.items():
            who = f"machine {rank} ({found.get('host')})"
            if found.get("ended"):
                return f"{who} has ended: {found['ended']}"
            if self.clock() - seen > LOST_S:
                self.is_silent = True
                return f"{who} is gone: it has given no sign of life for {LOST_S:.0f} seconds"
        return None

    def never_seen(self) -> str | None:
        """Return a sentence about a machine that has never given a sign of life."""
        missing = next((rank for rank in range(self.count) if rank not in {self.rank, *self._alive}), None)
        return None if missing is None else f"machine {missing} has given no sign of life since this one was started"

    def _file(self, rank: int) -> Path:
        return self.folder / f"machine-{rank}.json"
