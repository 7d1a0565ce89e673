"""The interface through which a use case reports its progress; `cli.terminal` shows it."""

from __future__ import annotations

from typing import Protocol

from lora_training.supervise import run


class Watcher(run.Watcher, Protocol):
    """Receives the lines, events and notes of a run, and the messages before its start."""

    def say(self, *lines: str) -> None:
        """Show lines as they are, such as a warning."""

    def progress(self, text: str) -> None:
        """Show the current step in place of the last one; an empty text removes it."""
