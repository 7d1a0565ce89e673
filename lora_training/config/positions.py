"""Positions of the keys in a TOML document. The text must be valid TOML: `tomllib` has parsed it first."""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TypeAlias

from lora_training import tomls
from lora_training.problems import Position

Path: TypeAlias = "tuple[str | int, ...]"

_SPACE = re.compile(r"[ \t\r\n]+|#[^\n]*")
_BARE = re.compile(r"[^ \t\r\n.=\]]*")
_SCALAR = re.compile(r"[^,\]}\r\n#]*")
# what to look for after each opening quote: escapes, and the end; one or two quotes may precede the closing three
_ENDS = {
    '"""': re.compile(r'\\.|"{3,5}', re.DOTALL),
    "'''": re.compile("'{3,5}"),
    '"': re.compile(r'\\.|"'),
    "'": re.compile("'"),
}


def index(text: str) -> dict[Path, Position]:
    """Return the position of every table header, key and array item of a valid TOML document.

    A path is the sequence of indexes into the parsed document: `("datasets", 0, "subsets", 1, "image_dir")`. A table
    that is opened more than once keeps its first position.
    """
    scanner = _Scanner(text)
    scanner.document()
    starts = [0, *(i + 1 for i, char in enumerate(text) if char == "\n")]
    lines = {path: bisect_right(starts, offset) for path, offset in scanner.found.items()}
    return {path: Position(lines[path], offset - starts[lines[path] - 1] + 1) for path, offset in scanner.found.items()}


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[Path, int] = {}
        self._lengths: dict[Path, int] = {}  # number of items in each array of tables so far

    def document(self) -> None:
        table: Path = ()
        while self._skip():
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)

    # -- headers and keys

    def _header(self) -> Path:
        brackets = 2 if self.text.startswith("[[", self.at) else 1
        self.at += brackets
        *parents, (name, offset) = self._key()
        self.at += brackets
        path: Path = ()
        for parent, place in parents:
            path = self._inside((*path, parent), place)
        path = (*path, name)
        if brackets == 1:
            return self._inside(path, offset)
        self.found.setdefault(path, offset)
        number = self._lengths.get(path, 0)
        self._lengths[path] = number + 1
        item = (*path, number)
        self.found[item] = offset
        return item

    def _inside(self, path: Path, offset: int) -> Path:
        """Return `path`, or the path of the last item if it is an array of tables."""
        self.found.setdefault(path, offset)
        return (*path, self._lengths[path] - 1) if path in self._lengths else path

    def _pair(self, table: Path) -> None:
        path = table
        for name, offset in self._key():
            path = (*path, name)
            self.found.setdefault(path, offset)
        self.at += 1  # the equals sign
        self._value(path)

    def _key(self) -> list[tuple[str, int]]:
        parts = []
        while True:
            self._skip()
            offset = self.at
            text = self._string() if self.text[self.at] in _ENDS else self._bare(_BARE)
            # the parser knows the escapes
            parts.append((tomls.loads(f"key = {text}")["key"] if text[:1] == '"' else text.strip("'"), offset))
            self._skip()
            if self.text[self.at] != ".":
                return parts
            self.at += 1

    # -- values

    def _value(self, path: Path) -> None:
        self._skip()
        char = self.text[self.at]
        if char in _ENDS:
            self._string()
        elif char == "[":
            number = 0
            while self._next("]"):
                item = (*path, number)
                self.found[item] = self.at
                self._value(item)
                number += 1
        elif char == "{":
            while self._next("}"):
                self._pair(path)
        else:
            self._bare(_SCALAR)

    def _next(self, end: str) -> bool:
        """Skip an opening bracket or comma; return whether an item follows."""
        self._skip()
        if self.text[self.at] != end:
            self.at += self.text[self.at] in "[{,"
            self._skip()
        is_end = self.text[self.at] == end
        self.at += is_end
        return not is_end

    # -- text

    def _string(self) -> str:
        start = self.at
        quote = self.text[start : start + 3] if self.text[start : start + 3] in _ENDS else self.text[start]
        ends = _ENDS[quote].finditer(self.text, start + len(quote))
        self.at = next(found.end() for found in ends if found[0][0] != "\\")
        return self.text[start : self.at]

    def _bare(self, pattern: re.Pattern[str]) -> str:
        start = self.at
        found = pattern.match(self.text, start)
        self.at = found.end() if found else start
        return self.text[start : self.at]

    def _skip(self) -> bool:
        """Skip blanks, line breaks and comments; return whether any text is left."""
        while found := _SPACE.match(self.text, self.at):
            self.at = found.end()
        return self.at < len(self.text)
