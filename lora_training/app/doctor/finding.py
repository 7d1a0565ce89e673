"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lora_training.errors import LoraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Level = Literal["ok", "warn", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the page: `about` in a word, and what to do about it unless it is ok."""

    about: str
    level: Level
    text: str
    hint: str | None = None


def ok(about: str, text: str) -> Finding:
    """It is as it should be."""
    return Finding(about, "ok", text)


def warn(about: str, text: str, hint: str | None = None) -> Finding:
    """It may do, or not for every training."""
    return Finding(about, "warn", text, hint)


def problem(about: str, text: str, hint: str | None = None) -> Finding:
    """No training goes well like this."""
    return Finding(about, "problem", text, hint)


def of(about: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings of one check; that it cannot be made is a finding, too."""
    try:
        return list(check())
    except LoraError as exc:
        return [problem(about, exc.message, exc.hint)]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        return [problem(about, f"cannot be checked: {exc}")]
