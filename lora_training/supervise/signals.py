"""SIGINT and SIGTERM as a number to look at, instead of an exception at any line."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


@dataclass
class Asked:
    """How many times a signal has asked us to stop, and which one came first."""

    count: int = 0
    signum: int = signal.SIGTERM


@contextmanager
def counted() -> Iterator[Asked]:
    """Within the block, SIGINT and SIGTERM are counted; afterwards they do what they did before."""
    asked = Asked()

    def note(signum: int, _frame: FrameType | None) -> None:
        if asked.count == 0:
            asked.signum = signum
        asked.count += 1

    before = {signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
