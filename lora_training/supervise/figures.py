"""The figures of a training for display, computed from its events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_MB_A_GB = 1024
_LATEST = 1e11  # a time; the file may have been edited


@dataclass
class Figures:
    """The progress of an attempt. Seconds per step and the time left only count its own steps, also after a resume.

    `checkpoints`, `best` (the lowest average loss and its step) and `seconds` are those of all attempts.
    """

    step: int = 0
    total: int = 0
    epochs: int = 0
    checkpoints: int = 0
    best: tuple[float, int] | None = None
    seconds: float = 0.0
    _time: float | None = None
    _last: dict[str, Any] = field(default_factory=dict)
    _steps: int = 0
    _seconds: float = 0.0

    def take(self, event: dict[str, Any]) -> None:
        """Update the figures from an object of `events.jsonl`."""
        self._count_time(event)
        match event.get("event"):
            case "attempt":
                self._steps, self._seconds, self._last = 0, 0.0, {}
            case "start":
                self.step, self.total = event.get("initial_step", 0), event["total_steps"]
                self.epochs = event.get("epochs", 0)
            case "step":
                self._steps, self._seconds = self._steps + 1, self._seconds + event["seconds"]
                self.step, self._last = event["step"], event
                average = event["avr_loss"]
                if isinstance(average, int | float) and (self.best is None or average < self.best[0]):
                    self.best = (average, self.step)
            case "checkpoint":
                self.checkpoints += 1

    def _count_time(self, event: dict[str, Any]) -> None:
        """Add the time since the event before, but not between two attempts."""
        now = event.get("time")
        if not isinstance(now, int | float) or not 0 <= now < _LATEST:
            return
        if self._time is not None and event.get("event") != "attempt":
            self.seconds += max(0.0, now - self._time)
        self._time = now

    @property
    def known(self) -> bool:
        """Whether this attempt has made a step."""
        return bool(self._last)

    def words(self) -> list[str]:
        """Return the figures after a step, each with its name, the most important ones first."""
        event = self._last
        rates = " ".join("not finite" if rate is None else f"{rate:.2g}" for rate in dict.fromkeys(event["lr"]))
        found = [f"step {self.step}/{self.total}", f"{self.left()} left", f"loss {self.loss()}"]
        found += [f"{self.each:.3g} s/step"]
        found += [f"epoch {event['epoch']}" + f"/{self.epochs}" * bool(self.epochs), f"lr {rates}" if rates else ""]
        found += ["" if event["memory_mb"] is None else _memory(event["memory_mb"])]
        found += [f"{self.checkpoints} checkpoint{'s' * (self.checkpoints > 1)}" if self.checkpoints else ""]
        return [word for word in found if word]

    def loss(self) -> str:
        """Return the average loss after the last step."""
        loss = self._last["avr_loss"]
        return "not finite" if loss is None else f"{loss:.4f}"

    @property
    def each(self) -> float:
        """The seconds per step of this attempt."""
        return self._seconds / self._steps

    def left(self) -> str:
        """Return the time left, as hours, minutes and seconds."""
        return clock((self.total - self.step) * self.each)

    def took(self) -> str:
        """Return how long the run took, with the seconds per step of its last attempt."""
        return f"{clock(self.seconds)}" + (f", {self.each:.3g} s/step" if self.known else "")

    def losses(self) -> str:
        """Return the average loss at the end and the lowest one."""
        best = f", lowest {self.best[0]:.4f} at step {self.best[1]}" if self.best else ""
        return f"{self.loss()}{best} (averages of an epoch)"


def clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _memory(megabytes: float) -> str:
    return f"{megabytes:.0f} MB" if megabytes < _MB_A_GB else f"{megabytes / _MB_A_GB:.1f} GB"
