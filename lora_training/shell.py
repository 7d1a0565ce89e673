"""Quoting for a shell: every word stays on one line."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from lora_training import printable

_BACKSLASHED = {"\\": "\\\\", "'": "\\'"}


def quote(word: str) -> str:
    """Quote a word for a shell; with `$'...'` if it has control characters, which a terminal must not receive."""
    if printable.is_plain(word):
        return shlex.quote(word)
    return f"$'{''.join(map(_escape, word))}'"


def join(words: Iterable[str]) -> str:
    """Return a command as one line."""
    return " ".join(map(quote, words))


def _escape(char: str) -> str:
    if printable.is_plain(char):
        return _BACKSLASHED.get(char, char)
    return "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogateescape"))
