"""The result of a check that failed: one type for configurations, files, trees and runtime patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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

    def __str__(self) -> str:
        """Return the place, if there is one, and the message."""
        return f"{self.place}: {self.message}" if self.place else self.message

    def lines(self) -> Iterator[str]:
        """Yield the problem for people: a line for it, and an indented one for each line of the hint."""
        yield f"{self.place}: {self.severity}: {self.message}"
        yield from (f"    hint: {line}" for line in (self.hint or "").splitlines())

    def as_json(self) -> dict[str, Any]:
        """Return the problem as JSON values."""
        return {
            "severity": self.severity,
            "where": self.where,
            "line": self.position.line if self.position else None,
            "column": self.position.column if self.position else None,
            "key": self.key,
            "message": self.message,
            "hint": self.hint,
        }


def as_hint(problems: Sequence[Problem]) -> str:
    """Return the first problem's hint, then the other problems with theirs, for the hint of one error."""
    first, *rest = problems
    lines = [first.hint or ""]
    for each in rest:
        lines += [f"also: {each}", *(f"  {line}" for line in (each.hint or "").splitlines())]
    return "\n".join(lines).strip("\n")
