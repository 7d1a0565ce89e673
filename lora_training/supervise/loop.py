"""The supervisor's loop: it watches one child, the clock and requests to stop until the attempt has ended.

Child, clock and queue are parameters, so that a test can script them and never waits.
"""

from __future__ import annotations

import queue
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from queue import SimpleQueue

    from lora_training.supervise.child import Child

# A line that the child wrote, or its exit code (negative: a signal).
Event = str | int

# How often the loop checks the clock and the child's events, in seconds.
TICK = 0.2
_TAIL = 100


@dataclass(frozen=True)
class Patience:
    """Timeouts in seconds: for a child that was asked to stop, and for one that makes no progress."""

    # drawing sample images between two steps takes minutes
    grace: float = 600.0
    stall: float | None = None


@dataclass(frozen=True)
class Ended:
    """How an attempt ended: exit code (negative: a signal), last lines, whether it stalled, and requests to stop."""

    code: int
    tail: tuple[str, ...] = ()
    stalled: bool = False
    asked: int = 0


@dataclass
class Attempt:
    """One attempt, watched to its end.

    `clock` is monotonic, in seconds. `wanted` returns how many times a stop was requested: the first request is passed
    on to the child by `ask`, and the child has `patience.grace` to save its state; the second kills it. `progress` is
    called at every tick and returns whether there was any since the last call; before the first progress, while models
    load and latents are cached, a line of output counts as well. `on_line` gets the child's output lines.
    """

    child: Child
    events: SimpleQueue[Event]
    clock: Callable[[], float]
    patience: Patience
    wanted: Callable[[], int]
    ask: Callable[[], None]
    progress: Callable[[], bool]
    on_line: Callable[[str], None]
    _tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL))

    def watch(self) -> Ended:
        """Follow the child until it has ended, with all processes that it started."""
        try:
            return self._loop()
        finally:
            self.child.end()

    def _loop(self) -> Ended:
        asked, deadline, stalled, trains = 0, float("inf"), False, False
        last = self.clock()
        while True:
            event = self._next()
            if isinstance(event, int):
                self.progress()
                return Ended(event, tuple(self._tail), stalled, asked)
            now = self.clock()
            if self.progress():
                last, trains = now, True
            elif event is not None and not trains:
                last = now
            if self.patience.stall is not None and now - last > self.patience.stall and not stalled:
                stalled = True
                self.child.end()
            if self.wanted() > asked:
                asked = self.wanted()
                deadline = now + self.patience.grace
                self.ask()
            if asked > 1 or now > deadline:
                self.child.end()

    def _next(self) -> Event | None:
        """Return the next event, or None after a tick without one. A line is recorded at once."""
        try:
            event = self.events.get(timeout=TICK)
        except queue.Empty:
            return None
        if isinstance(event, str):
            self._tail.append(event)
            self.on_line(event)
        return event
