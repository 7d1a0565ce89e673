"""Counting of the signals that ask for a stop, instead of an exception at any line."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass
class Asked:
    """How many times a signal has requested a stop, and which one came first."""

    count: int = 0
    signum: int = signal.SIGTERM


@contextmanager
def user_signals_ignored() -> Iterator[None]:
    """Have processes that are started within the block ignore SIGUSR1 and SIGUSR2, as long as they do not handle them.

    A batch system sends these to every process of a job, and a launcher that died of one would take its ranks with it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handled_by(signal.SIG_IGN, (signal.SIGUSR1, signal.SIGUSR2)):
        yield


@contextmanager
def _handled_by(handler: Any, signums: Iterable[int]) -> Iterator[None]:
    before = {signum: signal.signal(signum, handler) for signum in signums}
    try:
        yield
    finally:
        for signum, handler_before in before.items():
            signal.signal(signum, handler_before)


@contextmanager
def counted() -> Iterator[Asked]:
    """Count SIGHUP, SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 within the block; restore their handlers afterwards.

    The last two come from batch systems, when the time of a job is nearly over. A terminal that closes sends SIGHUP
    more than once, and a system that shuts down sends it beside SIGTERM. So all of them count as one request, and only
    SIGINT and SIGTERM can request again. A SIGHUP that is ignored, as under nohup, stays ignored.
    """
    asked = Asked()
    again = 0

    def note(signum: int, _frame: FrameType | None) -> None:
        nonlocal again
        if asked.count == 0:
            asked.signum = signum
        again += signum in (signal.SIGINT, signal.SIGTERM)
        asked.count = max(1, again)

    counts = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        counts.append(signal.SIGHUP)
    with _handled_by(note, counts):
        yield asked
