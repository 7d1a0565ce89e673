"""The terminal as the watcher of a use case: messages, the figures of a training and its progress bar."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lora_training import printable
from lora_training.cli.output import ProgressLine, is_live, say

_LOADING = "loading upstream and the model"
_MB_A_GB = 1024
# The number of progress lines of a training where there is no terminal.
_LINES = 10


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
        loss = "not finite" if event["avr_loss"] is None else f"{event['avr_loss']:.4f}"
        found = [f"step {self.step}/{self.total}", f"{self._left()} left", f"loss {loss}", f"{self._each:.3g} s/step"]
        found += [f"epoch {event['epoch']}" + f"/{self.epochs}" * bool(self.epochs), f"lr {rates}" if rates else ""]
        found += ["" if event["memory_mb"] is None else _memory(event["memory_mb"])]
        found += [f"{self.checkpoints} checkpoint{'s' * (self.checkpoints > 1)}" if self.checkpoints else ""]
        return [word for word in found if word]

    @property
    def _each(self) -> float:
        return self._seconds / self._steps

    def _left(self) -> str:
        hours, rest = divmod(round((self.total - self.step) * self._each), 3600)
        minutes, seconds = divmod(rest, 60)
        return f"{hours}:{minutes:02}:{seconds:02}"


class _LiveLine:
    """A progress bar with figures; other output scrolls above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.fields[figures]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=self._console,
            transient=True,
            refresh_per_second=4,
            # all other output goes through `say`
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=None, figures=_LOADING)

    def show(self, figures: Figures) -> None:
        """Update the bar."""
        self._progress.start()
        words = figures.words() if figures.known else [_LOADING]
        self._progress.update(
            self._task, completed=figures.step, total=figures.total if figures.known else None, figures="  ".join(words)
        )

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(printable.line(text), markup=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()


class Terminal:
    """Shows messages, the progress and, with `verbose`, upstream's own log.

    The progress is a live line on a terminal, else about ten plain lines.
    """

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._figures = Figures()
        self._line: _LiveLine | None = None
        self._progress = ProgressLine()

    def line(self, text: str) -> None:
        """Show a line of the child's output, if `verbose`."""
        if self._verbose:
            self._say(text)

    def event(self, event: dict[str, Any]) -> None:
        """Update the progress by an object of `events.jsonl`."""
        self._figures.take(event)
        if event.get("event") == "skipped":
            self.note(f"step {event['step']} skipped, not finite: {', '.join(map(str, event['images']))}")
        self._line = self._line or (_LiveLine() if is_live() else None)
        if self._line:
            self._line.show(self._figures)
        elif event.get("event") == "step" and not self._verbose:
            self._plain()

    def _plain(self) -> None:
        figures = self._figures
        if figures.step % max(1, figures.total // _LINES) == 0 or figures.step == figures.total:
            self._say("  ".join(figures.words()))

    def note(self, text: str) -> None:
        """Show a message of the supervisor."""
        self._say(f"lora: {text}")

    def say(self, *lines: str) -> None:
        """Show lines as they are."""
        for line in lines:
            self._say(line)

    def progress(self, text: str) -> None:
        """Show the current step in place of the last one; an empty text removes it."""
        self._progress(text)

    def _say(self, text: str) -> None:
        if self._line:
            self._line.say(text)
        else:
            say(text, err=True)

    def close(self) -> None:
        """Remove the live line."""
        if self._line:
            self._line.close()


def _memory(megabytes: float) -> str:
    return f"{megabytes:.0f} MB" if megabytes < _MB_A_GB else f"{megabytes / _MB_A_GB:.1f} GB"
