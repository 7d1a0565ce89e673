"""The terminal as the watcher of a use case: messages, the figures of a training and its progress bar."""

from __future__ import annotations

from typing import Any

from lora_training import printable
from lora_training.cli.output import ProgressLine, is_live, say
from lora_training.supervise.figures import Figures, Loading

# The number of progress lines of a training where there is no terminal.
_LINES = 10


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
        self._task = self._progress.add_task("", total=None, figures="")

    def show(self, figures: Figures, loading: Loading) -> None:
        """Update the bar: by the figures, or before the first step by the loading."""
        done, total = (figures.step, figures.total) if figures.known else (loading.done, loading.total or None)
        words = "  ".join(figures.words()) if figures.known else loading.words()
        self._progress.update(self._task, completed=done, total=total, figures=words)
        self._progress.start()

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
        self._loading = Loading()
        self._line: _LiveLine | None = None
        self._progress = ProgressLine()

    def line(self, text: str) -> None:
        """Show a line of the child's output, if `verbose`; before the first step, show how far the loading is."""
        if self._verbose:
            self._say(text)
        if self._figures.known:
            return
        is_news = self._loading.take(text)
        if self._line:
            self._line.show(self._figures, self._loading)
        elif is_news and not self._verbose:
            self._say(self._loading.words())

    def event(self, event: dict[str, Any]) -> None:
        """Update the progress by an object of `events.jsonl`."""
        self._figures.take(event)
        if event.get("event") == "attempt":
            self._loading = Loading()
        if event.get("event") == "skipped":
            self.note(f"step {event['step']} skipped, not finite: {', '.join(map(str, event['images']))}")
        self._line = self._line or (_LiveLine() if is_live() else None)
        if self._line:
            self._line.show(self._figures, self._loading)
        elif event.get("event") == "step" and not self._verbose:
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
