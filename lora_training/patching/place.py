"""Where a hunk goes: at its line, or at the only other place that its exact context allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lora_training.patching.model import Hunk


class Placed(NamedTuple):
    """A hunk that was found `offset` lines from where it says."""

    hunk: Hunk
    offset: int


class NoPlace(Exception):
    """A hunk cannot go in. `reason` continues a sentence that begins with the hunk."""

    def __init__(self, hunk: Hunk, reason: str) -> None:
        super().__init__(reason)
        self.hunk = hunk
        self.reason = reason


def apply(data: bytes, hunks: Sequence[Hunk]) -> tuple[bytes, list[Placed]]:
    """`data` with every hunk put in, and where each was found. Raises NoPlace for the first that has no clear place."""
    done: list[bytes] = []
    placed: list[Placed] = []
    at = line = shift = 0
    for hunk in hunks:
        start, found = _find(data, hunk, at, line, shift)
        shift = found - _stated(hunk)
        placed.append(Placed(hunk, shift))
        done += (data[at:start], hunk.new)
        at = start + len(hunk.old)
        line = found + hunk.old.count(b"\n")
    done.append(data[at:])
    _check_ends(done, hunks)
    return b"".join(done), placed


def _stated(hunk: Hunk) -> int:
    """The line that the hunk names, from 0. A hunk that takes nothing out names the line before it."""
    return hunk.old_start if not hunk.old else max(hunk.old_start - 1, 0)


def _find(data: bytes, hunk: Hunk, at: int, line: int, shift: int) -> tuple[int, int]:
    """Byte and line, both from 0, where the hunk's old lines begin, at or after `at`/`line`."""
    found: list[tuple[int, int]] = []
    for place in _candidates(data, hunk, at, line):
        if place[1] == _stated(hunk) and not shift:
            return place
        found.append(place)
    if not found:
        raise NoPlace(hunk, "does not fit: its lines are not in the file, or not where its other hunks leave room")
    if len(found) > 1:
        lines = ", ".join(str(number + 1) for _, number in found[:4])
        raise NoPlace(hunk, f"fits in {len(found)} places (lines {lines}), and none of them is the one it names")
    return found[0]


def _candidates(data: bytes, hunk: Hunk, at: int, line: int) -> Iterator[tuple[int, int]]:
    if not hunk.old:
        if data:
            raise NoPlace(hunk, "adds lines without context, so that nothing shows where they belong")
        return iter([(0, 0)])
    places = _places(data, hunk.old, at, line)
    # like git: what began the file, or ended it, must do so still, or its place is not shown by its context
    if hunk.old_start <= 1:
        places = (place for place in places if place[0] == 0)
    if not hunk.trailing:
        places = (place for place in places if place[0] + len(hunk.old) == len(data))
    return places


def _places(data: bytes, block: bytes, at: int, line: int) -> Iterator[tuple[int, int]]:
    """Every place, as byte and line, where the whole lines of `block` stand at or after `at`."""
    start = data.find(block, at)
    while start >= 0:
        line += data.count(b"\n", at, start)
        at = start
        if _is_whole(data, block, start):
            yield start, line
        start = data.find(block, start + 1)


def occurrences(data: bytes, block: bytes) -> list[tuple[int, int]]:
    """Every place, as byte and line from 0, where the whole lines of `block` stand."""
    return list(_places(data, block, 0, 0)) if block else []


def _is_whole(data: bytes, block: bytes, start: int) -> bool:
    """Whether the block begins with a line of `data` and ends with one."""
    begins = start == 0 or data[start - 1 : start] == b"\n"
    return begins and (block.endswith(b"\n") or start + len(block) == len(data))


def _check_ends(parts: list[bytes], hunks: Sequence[Hunk]) -> None:
    """A line without an end may only be the file's last. The odd parts are the hunks' new lines."""
    for i, hunk in enumerate(hunks):
        new = parts[2 * i + 1]
        if new and not new.endswith(b"\n") and any(parts[2 * i + 2 :]):
            raise NoPlace(hunk, "leaves a line without an end in the middle of the file")
