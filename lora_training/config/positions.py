"""Positions of the keys in a TOML document. The text must be valid TOML: `tomllib` has parsed it first."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import TypeAlias

from lora_training import tomls
from lora_training.problems import Position

Path: TypeAlias = "tuple[str | int, ...]"

_WORD = re.compile(r"(?P<blank>[ \t\r]+|#[^\n]*)|(?P<quote>\"{3}|'{3}|[\"'])|[][{}=,.\n]|[^][{}=,.\"'# \t\r\n]+")
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
    found = _Scanner(text).document()
    starts = [0, *(i + 1 for i, char in enumerate(text) if char == "\n")]
    lines = {path: bisect_right(starts, offset) for path, offset in found.items()}
    return {path: Position(lines[path], offset - starts[lines[path] - 1] + 1) for path, offset in found.items()}


def _words(text: str) -> Iterator[tuple[str, int]]:
    """Yield each string, mark, line break and other word with its offset."""
    at = 0
    while found := _WORD.match(text, at):
        start, at = at, found.end()
        if found["quote"]:
            ends = _ENDS[found["quote"]].finditer(text, at)
            at = next(end.end() for end in ends if end[0][0] != "\\")
        if not found["blank"]:
            yield text[start:at], start


class _Scanner:
    def __init__(self, text: str) -> None:
        self._words = _words(text)
        self._word, self._at = next(self._words, ("", 0))
        self._found: dict[Path, int] = {}
        self._lengths: dict[Path, int] = {}  # number of items in each array of tables so far

    def _step(self) -> str:
        """Return the word and go to the next one."""
        word = self._word
        self._word, self._at = next(self._words, ("", self._at))
        return word

    def _after(self, marks: str) -> str:
        """Skip these marks, and return the word behind them."""
        while self._word and self._word in marks:
            self._step()
        return self._word

    def document(self) -> dict[Path, int]:
        """Return the offset of each path."""
        table: Path = ()
        while word := self._after("\n"):
            if word == "[":
                table = self._header()
            else:
                self._pair(table)
        return self._found

    def _header(self) -> Path:
        self._step()
        is_array = self._word == "["
        self._after("[")
        *parents, (name, offset) = self._key()
        self._after("]")
        path: Path = ()
        for parent, place in parents:
            path = self._inside((*path, parent), place)
        path = (*path, name)
        if is_array:
            self._lengths[path] = self._lengths.get(path, 0) + 1
        inside = self._inside(path, offset)
        self._found.setdefault(inside, offset)
        return inside

    def _inside(self, path: Path, offset: int) -> Path:
        """Return `path`, or the path of the last item if it is an array of tables."""
        self._found.setdefault(path, offset)
        return (*path, self._lengths[path] - 1) if path in self._lengths else path

    def _pair(self, table: Path) -> None:
        path = table
        for name, offset in self._key():
            path = (*path, name)
            self._found.setdefault(path, offset)
        self._step()  # the equals sign
        self._value(path)

    def _key(self) -> list[tuple[str, int]]:
        parts = []
        while self._word not in ("=", "]"):
            offset, text = self._at, self._step()
            # the parser knows the escapes
            name = tomls.loads(f"key = {text}")["key"] if text[:1] == '"' else text.strip("'")
            parts.append((name, offset))
            self._after(".")
        return parts

    def _value(self, path: Path) -> None:
        opening = self._step()
        if opening in ("[", "{"):
            number = 0
            while self._after(",\n") not in ("]", "}"):
                if opening == "{":
                    self._pair(path)
                    continue
                item = (*path, number)
                self._found[item] = self._at
                self._value(item)
                number += 1
            self._step()
        elif opening[0] not in "\"'":
            while self._word not in (",", "]", "}", "\n", ""):
                self._step()
