"""The progress bar at the bottom of a terminal. It imports rich, so it is imported only where it is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from lora_training import printable

if TYPE_CHECKING:
    from lora_training.cli.figures import Figures

_LOADING = "loading upstream and the model"


class LiveLine:
    """A progress bar with figures; other output scrolls above it."""

    def __init__(self) -> None:
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
