"""Find the place of a hunk: at its line, or at the only other place where all its lines are found."""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate

from lora_training.patching.model import Hunk

_EXACT = "a hunk goes in only where all its lines are found exactly"


class NoPlace(Exception):
    """A hunk does not fit. `reason` is the rest of a sentence about the hunk, `hint` how to fix it."""

    def __init__(self, hunk: Hunk, reason: str, hint: str = _EXACT) -> None:
        super().__init__(reason)
        self.hunk = hunk
        self.reason = reason
        self.hint = hint


def apply(data: bytes, hunks: Sequence[Hunk]) -> tuple[bytes, list[int]]:
    """Apply hunks to `data`; return how many lines from its stated line each was found, too.

    Raises NoPlace for the first that has no unique place.
    """
    done: list[bytes] = []
    offsets: list[int] = []
    file = _File(data)
    at = line = shift = 0
    for hunk in hunks:
        found = _find(file, hunk, line, shift)
        shift = found - _stated(hunk)
        offsets.append(shift)
        start = file.starts[found]
        done += (data[at:start], hunk.new)
        at = start + len(hunk.old)
        line = found + len(_lines(hunk.old))
    done.append(data[at:])
    _check_ends(done, hunks)
    return b"".join(done), offsets


def occurrences(data: bytes, block: bytes) -> list[tuple[int, int]]:
    """Every place, as byte and line from 0, where the lines of `block` are found."""
    if not block or block not in data:
        return []
    file = _File(data)
    return [(file.starts[number], number) for number in file.places(_lines(block), 0)]


class _File:
    """A file's lines, with an index for hunks that are not at their line, so that searching for many stays fast."""

    def __init__(self, data: bytes) -> None:
        self.lines = _lines(data)
        self.starts = [0, *accumulate(map(len, self.lines))]

    @cached_property
    def numbers(self) -> dict[bytes, list[int]]:
        """The numbers of the lines with each content, from 0."""
        found: dict[bytes, list[int]] = {}
        for number, line in enumerate(self.lines):
            found.setdefault(line, []).append(number)
        return found

    def has(self, block: list[bytes], number: int) -> bool:
        """Whether the lines of `block` begin at a line."""
        return self.lines[number : number + len(block)] == block

    def places(self, block: list[bytes], line: int) -> Iterator[int]:
        """Every line at or after `line` where the lines of `block` begin."""
        at, numbers = min(((i, self.numbers.get(row, [])) for i, row in enumerate(block)), key=lambda row: len(row[1]))
        for number in numbers[bisect_left(numbers, line + at) :]:
            if self.has(block, number - at):
                yield number - at


def _lines(data: bytes) -> list[bytes]:
    return io.BytesIO(data).readlines()


def _stated(hunk: Hunk) -> int:
    """The line that the hunk states, from 0. A hunk that removes nothing states the line before it."""
    return hunk.old_start if not hunk.old else max(hunk.old_start - 1, 0)


def _find(file: _File, hunk: Hunk, line: int, shift: int) -> int:
    """The line, from 0, where the hunk's old lines begin, at or after `line`."""
    if not hunk.old:
        if file.lines:
            raise NoPlace(hunk, "adds lines without context, so that nothing shows where they belong")
        return 0
    block, stated = _lines(hunk.old), _stated(hunk)
    if not shift and stated >= line and file.has(block, stated) and _may_be(file, hunk, block, stated):
        return stated
    found = [number for number in file.places(block, line) if _may_be(file, hunk, block, number)]
    if not found:
        raise _nowhere(hunk, list(file.places(block, line)))
    if len(found) > 1:
        lines = ", ".join(str(number + 1) for number in found[:4])
        raise NoPlace(hunk, f"fits in {len(found)} places (lines {lines}), and none of them is the one it names")
    return found[0]


def _nowhere(hunk: Hunk, lines: list[int]) -> NoPlace:
    """Return the error for a hunk whose lines are not in the file, or only at `lines`, where it may not be."""
    if not lines:
        return NoPlace(hunk, "does not fit: its lines are not in the file, or not where its other hunks leave room")
    side, end = ("before", "start") if hunk.trailing else ("after", "end")
    return NoPlace(
        hunk,
        f"does not fit: without context {side} its change it fits only at the {end} of the file, "
        f"and its lines are at line {lines[0] + 1}",
        "make the patch with context: `diff -U3`, or `git diff` of this version of the file",
    )


def _may_be(file: _File, hunk: Hunk, block: list[bytes], number: int) -> bool:
    """Whether a hunk at the start or end of the old file is there in this file too, as git demands."""
    begins = hunk.old_start > 1 or number == 0
    return begins and (hunk.trailing > 0 or number + len(block) == len(file.lines))


def _check_ends(parts: list[bytes], hunks: Sequence[Hunk]) -> None:
    """Raise NoPlace for a line without an end that is not the last. The odd `parts` are the hunks' new lines."""
    for i, hunk in enumerate(hunks):
        new = parts[2 * i + 1]
        if new and not new.endswith(b"\n") and any(parts[2 * i + 2 :]):
            raise NoPlace(hunk, "leaves a line without an end in the middle of the file")
