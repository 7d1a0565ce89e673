"""Positions of the keys in a TOML document. The text must be valid TOML: `tomllib` has parsed it first."""

from __future__ import annotations

from bisect import bisect_right
from typing import TypeAlias

from lora_training.problems import Position

Path: TypeAlias = "tuple[str | int, ...]"

_BLANK = " \t"
_SPACE = " \t\r\n"
_BARE_END = " \t\r\n.=]"
_VALUE_END = ",]}\r\n#"
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\", "e": "\x1b"}
_HEX = {"x": 2, "u": 4, "U": 8}


def index(text: str) -> dict[Path, Position]:
    """Return the position of every table header, key and array item of a valid TOML document.

    A path is the sequence of indexes into the parsed document: `("datasets", 0, "subsets", 1, "image_dir")`. A table
    that is opened more than once keeps its first position.
    """
    scanner = _Scanner(text)
    scanner.document()
    starts = [0, *(i + 1 for i, char in enumerate(text) if char == "\n")]
    return {path: _position(starts, offset) for path, offset in scanner.found.items()}


def _position(starts: list[int], offset: int) -> Position:
    line = bisect_right(starts, offset)
    return Position(line, offset - starts[line - 1] + 1)


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
        is_array = self.text.startswith("[[", self.at)
        self.at += 2 if is_array else 1
        parts = self._key()
        self.at += 2 if is_array else 1
        path: Path = ()
        for name, offset in parts[:-1]:
            path = self._inside((*path, name), offset)
        name, offset = parts[-1]
        path = (*path, name)
        if not is_array:
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
        self._skip(_BLANK)
        self.at += 1  # the equals sign
        self._value(path)

    def _key(self) -> list[tuple[str, int]]:
        parts = []
        while True:
            self._skip(_BLANK)
            offset = self.at
            name = self._string() if self.text[self.at] in "\"'" else self._until(_BARE_END)
            parts.append((name, offset))
            self._skip(_BLANK)
            if self.text[self.at] != ".":
                return parts
            self.at += 1

    # -- values

    def _value(self, path: Path) -> None:
        self._skip(_BLANK)
        char = self.text[self.at]
        if char in "\"'":
            self._string()
        elif char == "[":
            self._array(path)
        elif char == "{":
            self._inline(path)
        else:
            self._until(_VALUE_END)

    def _array(self, path: Path) -> None:
        number = 0
        while self._next("]"):
            item = (*path, number)
            self.found[item] = self.at
            self._value(item)
            number += 1

    def _inline(self, path: Path) -> None:
        while self._next("}"):
            self._pair(path)

    def _next(self, end: str) -> bool:
        """Skip an opening bracket or comma; return whether an item follows."""
        self._skip()
        if self.text[self.at] != end:
            self.at += self.text[self.at] in "[{,"
            self._skip()
        if self.text[self.at] == end:
            self.at += 1
            return False
        return True

    # -- text

    def _string(self) -> str:
        quote = self.text[self.at]
        long = self.text.startswith(quote * 3, self.at)
        self.at += 3 if long else 1
        start = self.at
        while not self.text.startswith(quote * (3 if long else 1), self.at):
            self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
        raw = self.text[start : self.at]
        self.at += 3 if long else 1
        while long and self.text.startswith(quote, self.at):  # one or two quotes may precede the closing three
            self.at += 1
        return raw if quote == "'" else _unescaped(raw)

    def _until(self, ends: str) -> str:
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in ends:
            self.at += 1
        return self.text[start : self.at]

    def _skip(self, what: str = _SPACE) -> bool:
        """Skip blanks, and also comments where line breaks are allowed; return whether any text is left."""
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "#" and what is _SPACE:
                self._until("\n")
            elif char in what:
                self.at += 1
            else:
                return True
        return False


def _unescaped(raw: str) -> str:
    """Return the text of a quoted key, which has no line breaks."""
    parts, at = [], 0
    while at < len(raw):
        if raw[at] != "\\":
            parts.append(raw[at])
            at += 1
            continue
        kind = raw[at + 1]
        digits = _HEX.get(kind, 0)
        parts.append(chr(int(raw[at + 2 : at + 2 + digits], 16)) if digits else _ESCAPES.get(kind, ""))
        at += 2 + digits
    return "".join(parts)
