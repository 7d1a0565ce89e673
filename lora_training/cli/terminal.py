"""The terminal as the watcher of a use case."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lora_training.cli.figures import Figures
from lora_training.cli.output import ProgressLine, is_live, say

if TYPE_CHECKING:
    from lora_training.cli.live import LiveLine

# The number of progress lines of a training where there is no terminal.
_LINES = 10


class Terminal:
    """Shows messages, the progress and, with `verbose`, upstream's own log.

    The progress is a live line on a terminal, else about ten plain lines.
    """

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._figures = Figures()
        self._line: LiveLine | None = None
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
        self._line = self._line or _live_line()
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


def _live_line() -> LiveLine | None:
    if not is_live():
        return None
    from lora_training.cli.live import LiveLine

    return LiveLine()
