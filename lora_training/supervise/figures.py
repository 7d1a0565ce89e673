"""The figures of a training for display, computed from its events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_MB_A_GB = 1024


@dataclass
class Figures:
    """The progress of an attempt. Seconds per step and the time left only count its own steps, also after a resume."""

    step: int = 0
    total: int = 0
    epochs: int = 0
    checkpoints: int = 0
    _last: dict[str, Any] = field(default_factory=dict)
    _steps: int = 0
    _seconds: float = 0.0

    def take(self, event: dict[str, Any]) -> None:
        """Update the figures from an object of `events.jsonl`."""
        match event.get("event"):
            case "attempt":
                self._steps, self._seconds, self._last = 0, 0.0, {}
            case "start":
                self.step, self.total = event.get("initial_step", 0), event["total_steps"]
                self.epochs = event.get("epochs", 0)
            case "step":
                self._steps, self._seconds = self._steps + 1, self._seconds + event["seconds"]
                self.step, self._last = event["step"], event
            case "checkpoint":
                self.checkpoints += 1

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
        hours, rest = divmod(round((self.total - self.step) * self.each), 3600)
        minutes, seconds = divmod(rest, 60)
        return f"{hours}:{minutes:02}:{seconds:02}"


def _memory(megabytes: float) -> str:
    return f"{megabytes:.0f} MB" if megabytes < _MB_A_GB else f"{megabytes / _MB_A_GB:.1f} GB"
