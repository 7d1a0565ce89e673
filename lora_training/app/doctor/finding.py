"""The result of a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lora_training.errors import LoraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Level = Literal["ok", "warn", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the output: `about` in one word, and a hint unless it is ok."""

    about: str
    level: Level
    text: str
    hint: str | None = None


def ok(about: str, text: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(about, "ok", text)


def warn(about: str, text: str, hint: str | None = None) -> Finding:
    """Return a finding that may be a problem, or is one for some trainings."""
    return Finding(about, "warn", text, hint)


def problem(about: str, text: str, hint: str | None = None) -> Finding:
    """Return a finding that has to be fixed before a training."""
    return Finding(about, "problem", text, hint)


def of(about: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Return the findings of one check; a check that fails with an error is a problem."""
    try:
        return list(check())
    except LoraError as exc:
        return [problem(about, exc.message, exc.hint)]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        return [problem(about, f"cannot be checked: {exc}")]
