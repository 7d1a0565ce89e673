"""The progress of a training for display: before its first step from upstream's log, then from its events."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

_MB_A_GB = 1024
_LATEST = 1e11  # a time; the file may have been edited

# words of upstream's log -> the stage that begins with them; a line of the same stage changes nothing
_STAGES = (
    (re.compile(r"prepare images|read caption|get image size|loading image sizes"), "reading images and captions"),
    (re.compile(r"checking cache validity"), "checking the cache"),
    (re.compile(r"caching latents"), "caching latents"),
    (re.compile(r"caching Text Encoder outputs|cache Text Encoder outputs"), "caching text encoder outputs"),
    (re.compile(r"prepare optimizer"), "preparing the optimizer"),
    (re.compile(r"running training"), "starting"),
    (
        re.compile(
            r"(?i)\bload(?:ing)? (?:model|state dict|StableDiffusion|Diffusers|pipeline|VAE|U-?Net|text enc|DiT|Qwen)"
        ),
        "loading the model",
    ),
)
# not the bar of the training itself
_BAR = re.compile(r"^(?!steps:).*\d+%\|.*\| *(\d+)/(\d+) \[")
_BEGINNING = "loading upstream and the model"
_QUARTERS = 4


@dataclass
class Loading:
    """The current stage, and the last bar of tqdm in it."""

    stage: str = _BEGINNING
    done: int = 0
    total: int = 0

    def take(self, line: str) -> bool:
        """Update it by a line of the log; return whether it is worth a plain line: a stage, or a quarter of one."""
        if found := _BAR.search(line):
            done, total = int(found[1]), int(found[2])
            passed = done * _QUARTERS // max(1, total) > self.done * _QUARTERS // max(1, self.total)
            self.done, self.total = done, total
            return passed and done < total
        stage = next((stage for words, stage in _STAGES if words.search(line)), self.stage)
        changed = stage != self.stage
        if changed:
            self.stage, self.done, self.total = stage, 0, 0
        return changed

    def words(self) -> str:
        """Return the stage, and how far it is where that is known."""
        return f"{self.stage}: {self.done} of {self.total}" if self.total else self.stage


@dataclass
class Figures:
    """The progress of an attempt. Seconds per step and the time left only count its own steps, also after a resume.

    `checkpoints`, `best` (the lowest average loss and its step) and `seconds` are those of all attempts; `average` is
    the last average loss, None if it is not finite.
    """

    step: int = 0
    total: int = 0
    epochs: int = 0
    checkpoints: int = 0
    best: tuple[float, int] | None = None
    seconds: float = 0.0
    average: float | None = None
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
                self.step, self.total = int(event.get("initial_step", 0)), int(event["total_steps"])
                self.epochs = int(event.get("epochs", 0))
            case "step":
                self.step, self._last = int(event["step"]), event
                self._steps, self._seconds = self._steps + 1, self._seconds + number(event["seconds"], 0.0)
                average = number(event["avr_loss"])
                self.average = None if math.isnan(average) else average
                if self.average is not None and (self.best is None or average < self.best[0]):
                    self.best = (average, self.step)
            case "checkpoint":
                self.checkpoints += 1

    def _count_time(self, event: dict[str, Any]) -> None:
        """Add the time since the event before, but not between two attempts."""
        now = number(event.get("time"))
        if not 0 <= now < _LATEST:
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
        found = [*self.reached(), f"{self.each:.3g} s/step"]
        found += [f"epoch {event['epoch']}" + f"/{self.epochs}" * bool(self.epochs), f"lr {rates}" if rates else ""]
        found += ["" if event["memory_mb"] is None else _memory(event["memory_mb"])]
        found += [f"{self.checkpoints} checkpoint{'s' * (self.checkpoints > 1)}" if self.checkpoints else ""]
        return [word for word in found if word]

    def reached(self) -> list[str]:
        """Return the last step, the time left and the loss."""
        return [f"step {self.step}/{self.total}", f"{self.left()} left", f"loss {self.loss()}"]

    def loss(self) -> str:
        """Return the average loss after the last step."""
        return "not finite" if self.average is None else f"{self.average:.4f}"

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

    def as_json(self) -> dict[str, Any]:
        """Return the figures of `took` and `losses` as JSON values, None for those that are not known."""
        lowest, step = self.best or (None, None)
        return {
            "step": self.step,
            "total": self.total,
            "loss": self.average,
            "lowest_loss": lowest,
            "lowest_loss_step": step,
            "seconds": round(self.seconds, 3),
            "seconds_per_step": round(self.each, 6) if self.known else None,
        }

    def losses(self) -> str:
        """Return the average loss at the end and the lowest one."""
        best = f", lowest {self.best[0]:.4f} at step {self.best[1]}" if self.best else ""
        return f"{self.loss()}{best} (averages of an epoch)"


def number(value: Any, otherwise: float = math.nan) -> float:
    """Return a finite number as a float, and anything else as `otherwise`."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    try:
        return float(value) if is_number and math.isfinite(value) else otherwise
    except OverflowError:
        return otherwise


def clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _memory(megabytes: float) -> str:
    return f"{megabytes:.0f} MB" if megabytes < _MB_A_GB else f"{megabytes / _MB_A_GB:.1f} GB"
