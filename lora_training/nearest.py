"""Suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 100  # characters of a name; the search takes quadratic time


def name(wrong: str, known: Iterable[str]) -> str | None:
    """Return the known name most similar to `wrong`, or None when none is similar."""
    if len(wrong) > _LONGEST:
        return None
    options = {_folded(option): option for option in known}
    found = difflib.get_close_matches(_folded(wrong), options, n=1, cutoff=0.6)
    return options[found[0]] if found else None


def hint(wrong: str, known: Iterable[str]) -> str | None:
    """Return `did you mean ...?`, or None when no name is similar."""
    near = name(wrong, known)
    return f"did you mean `{near}`?" if near else None


def _folded(text: str) -> str:
    return text.lower().replace("-", "_")
