"""The progress of a use case on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lora_training.cli.figures import Figures
from lora_training.cli.output import ProgressLine, is_live, say

if TYPE_CHECKING:
    from lora_training.cli.live import LiveLine

# Without a terminal, about so many lines follow a training.
_LINES = 10


class Terminal:
    """What the supervisor has to say, upstream's own log when it is asked for, and how far the training is: in a live
    line where there is a terminal, and in plain lines, a tenth of the way apart, where there is none.
    """

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._figures = Figures()
        self._line: LiveLine | None = None
        self._progress = ProgressLine()

    def line(self, text: str) -> None:
        """A line that the child wrote."""
        if self._verbose:
            self._say(text)

    def event(self, event: dict[str, Any]) -> None:
        """An object of `events.jsonl`."""
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
        """Something that the supervisor has to say."""
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
        """Leave the terminal clean."""
        if self._line:
            self._line.close()


def _live_line() -> LiveLine | None:
    if not is_live():
        return None
    from lora_training.cli.live import LiveLine

    return LiveLine()
