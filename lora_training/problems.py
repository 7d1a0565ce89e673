"""The result of a check that failed: one type for configurations, files, trees and runtime patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# `ok` is a line of `lora doctor` about a check that passed
Severity = Literal["error", "warning", "ok"]


@dataclass(frozen=True, order=True)
class Position:
    """A position in a text: line and column, both from 1, the column in characters."""

    line: int
    column: int


@dataclass(frozen=True)
class Problem:
    """An error or a warning, and in `hint` how to fix it.

    `where` names the file, the override, the upstream or the patch that it is in; `position` is the place in a file;
    `key` is the dotted name of the setting that it is about.
    """

    message: str
    hint: str | None = None
    severity: Severity = "error"
    key: str | None = None
    where: str = ""
    position: Position | None = None

    @property
    def place(self) -> str:
        """Return `where:line:column`, as far as known."""
        return f"{self.where}:{self.position.line}:{self.position.column}" if self.position else self.where
