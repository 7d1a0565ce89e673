"""Escaping for terminals: characters that control the terminal, reorder a line or are invisible become escapes.

Names, keys, metadata and logs come from files of others, and a terminal obeys control characters.
"""

from __future__ import annotations

import json
import re
from typing import Any

# Control characters with those of Latin-1, invisible marks, bidirectional controls, line separators, surrogates, tags.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e0fff]"
)
# A byte that is not UTF-8, as Python stores it in a name.
_BYTES = range(0xDC80, 0xDD00)


def is_plain(text: str) -> bool:
    """Return whether a text contains none of these characters."""
    return not _HIDDEN.search(text)


def line(text: str) -> str:
    """Return a text as one line. Tabs stay as they are."""
    return _HIDDEN.sub(_escape, text)


def lines(text: str) -> str:
    """Return a text of several lines, with its line breaks kept."""
    return "\n".join(map(line, text.split("\n")))


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return "\t" if match[0] == "\t" else ascii(chr(code - 0xDC00 if code in _BYTES else code))[1:-1]


def as_json(document: Any) -> str:
    """Return a JSON document, with all but the escaped characters readable."""
    # outside of strings, JSON has none of these characters except line breaks, and inside of them line breaks are
    # escaped
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return _HIDDEN.sub(lambda match: match[0] if match[0] == "\n" else json.dumps(match[0])[1:-1], text)


def as_toml(text: str) -> str:
    """Escape a text for a basic string of TOML, which has no escapes for surrogates."""
    return _HIDDEN.sub(_toml_escape, text)


def _toml_escape(match: re.Match[str]) -> str:
    char = match[0]
    if "\ud800" <= char < "\ue000":
        return char
    return f"\\u{ord(char):04x}" if char < "\U00010000" else f"\\U{ord(char):08x}"
