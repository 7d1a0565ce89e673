"""Limits for parsed documents, which recursive code and the writers of files rely on."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

LIMIT = 100
_NAME = 255  # characters
_DOTS = 1000  # on one line
_SURROGATE = re.compile("[\ud800-\udfff]")
_WIDTH = 100_000  # YAML aliases can repeat a part many times, and grow at every level


def too_deep(data: Any) -> bool:
    """Whether tables and arrays are nested deeper than `LIMIT`, or one level has `_WIDTH` parts or more."""
    level = [data]
    for _ in range(LIMIT):
        level = list(islice((part for item in level for part in _parts(item)), _WIDTH))
        if not level:
            return False
        if len(level) == _WIDTH:
            return True
    return True


def _parts(item: Any) -> list[Any]:
    parts = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return [part for part in parts if isinstance(part, dict | list)]


def has_long_keys(text: str) -> bool:
    """Whether a TOML text may have a key of a thousand parts, on which parsers take quadratic time."""
    return any(line.count(".") > _DOTS for line in text.split("\n"))


def oddity(data: Any) -> str | None:
    """Describe a value that no valid configuration has and that could not be written to a file; None without one."""
    level = [data]
    while level:
        found = next(filter(None, map(_oddity, level)), None)
        if found:
            return found
        level = [part for item in level for part in _all_parts(item)]
    return None


def _oddity(item: Any) -> str | None:
    if isinstance(item, int) and not -(2**63) <= item < 2**64:
        return "a number of more than 64 bits"
    if isinstance(item, dict) and any(len(str(name)) > _NAME for name in item):
        return f"a name of more than {_NAME} characters"
    if isinstance(item, str) and not item.isascii() and _SURROGATE.search(item):
        return "text that is no Unicode"
    return None


def _all_parts(item: Any) -> list[Any]:
    if isinstance(item, dict):
        return [*item, *item.values()]
    return item if isinstance(item, list) else []
