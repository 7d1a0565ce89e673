"""How deep a document is nested. What walks one by recursion relies on the limit."""

from __future__ import annotations

from itertools import islice
from typing import Any

LIMIT = 100
_WIDTH = 100_000  # YAML can name a part many times over, and grow at every level


def too_deep(data: Any) -> bool:
    """Whether tables and arrays are nested deeper than `LIMIT`, or grow beyond all measure on the way."""
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
