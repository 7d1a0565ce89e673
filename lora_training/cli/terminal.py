"""A run as it is seen on the terminal."""

from __future__ import annotations

from typing import Any

import click

from lora_training.cli.output import ProgressLine


class Terminal:
    """One line that follows the training, notes of the supervisor, and upstream's own log when it is asked for."""

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._progress = ProgressLine()
        self._total = 0
        self._seconds: list[float] = []

    def line(self, text: str) -> None:
        """A line that the child wrote."""
        if self._verbose:
            click.echo(text, err=True)

    def event(self, event: dict[str, Any]) -> None:
        """An object of `events.jsonl`."""
        match event.get("event"):
            case "start":
                self._total, self._seconds = event["total_steps"], []
            case "step" if not self._verbose:
                self._seconds.append(event["seconds"])
                text = self._step(event)
                self._progress.live(text)
                # without a terminal, a line for each tenth of the way
                if not self._progress.is_live and event["step"] % max(1, self._total // 10) == 0:
                    click.echo(text, err=True)
            case "skipped":
                self.note(f"step {event['step']} skipped, not finite: {', '.join(map(str, event['images']))}")

    def note(self, text: str) -> None:
        """Something that the supervisor has to say."""
        self._progress.close()
        click.echo(f"lora: {text}", err=True)

    def close(self) -> None:
        """Leave the terminal clean."""
        self._progress.close()

    def _step(self, event: dict[str, Any]) -> str:
        # the steps of this attempt only, so that both are right after a resume
        each = sum(self._seconds) / len(self._seconds)
        left = (self._total - event["step"]) * each
        rates = " ".join("not finite" if rate is None else f"{rate:.2g}" for rate in dict.fromkeys(event["lr"]))
        loss = "not finite" if event["avr_loss"] is None else f"{event['avr_loss']:.4f}"
        memory = "" if event["memory_mb"] is None else f"  {event['memory_mb']:.0f} MB"
        place = f"step {event['step']}/{self._total}  epoch {event['epoch']}"
        return f"{place}  loss {loss}  lr {rates}  {each:.3g} s/step  {_clock(left)} left{memory}"


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
