"""Hunks: read by unidiff, checked line by line against what the guard saw."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from lora_training.errors import PatchError
from lora_training.patching.model import Hunk

if TYPE_CHECKING:
    from unidiff.patch import PatchedFile

    from lora_training.patching.scan import RawHunk


def read_hunks(name: str, raw_hunks: list[RawHunk], *, proven: bool = False) -> tuple[Hunk, ...]:
    """The hunks, read by unidiff and by us: where the two differ in a single line, the patch is refused.

    `proven` leaves unidiff out, for a file whose sha256 is that of one that it has read.
    Raises PatchError for a hunk that is malformed, changes nothing, or is out of order.
    """
    if raw_hunks and not proven:
        _check_with_unidiff(name, raw_hunks)
    hunks = [_hunk(name, raw) for raw in raw_hunks]
    if any(b.old_start < a.old_start for a, b in pairwise(hunks)):
        raise PatchError(f"{name}, line {raw_hunks[0].line}: the hunks of this file are out of order")
    return tuple(hunks)


def _check_with_unidiff(name: str, raw_hunks: list[RawHunk]) -> None:
    parsed = _unidiff(name, raw_hunks)
    if len(parsed) != len(raw_hunks):
        raise PatchError(f"{name}, line {raw_hunks[0].line}: the hunks were not all read")
    for raw, read in zip(raw_hunks, parsed, strict=True):
        lines = [(line.line_type + line.value).encode("latin-1") for line in read]
        if [_as_read(line) for line in raw.body] != lines or (read.source_start, read.target_start) != raw.starts:
            raise PatchError(f"{name}, line {raw.line}: a line of this hunk was not read")


def _unidiff(name: str, raw_hunks: list[RawHunk]) -> PatchedFile:
    from unidiff.errors import UnidiffParseError
    from unidiff.patch import PatchSet

    lines = ["--- a\n", "+++ b\n"]
    for hunk in raw_hunks:
        lines.append(hunk.header.decode("latin-1"))
        lines += [_as_read(line).decode("latin-1") for line in hunk.body]
    try:
        files = PatchSet(lines)
    except UnidiffParseError as exc:
        raise PatchError(f"{name}, line {raw_hunks[0].line}: {exc}") from exc
    if len(files) != 1:
        raise PatchError(f"{name}, line {raw_hunks[0].line}: the hunks were not all read")
    return files[0]


def _as_read(line: bytes) -> bytes:
    # an empty line stands for an empty context line, and a marker is any line that begins with a backslash
    if line == b"\n":
        return b" \n"
    return b"\\ No newline at end of file\n" if line.startswith(b"\\") else line


def _hunk(name: str, raw: RawHunk) -> Hunk:
    old: list[bytes] = []
    new: list[bytes] = []
    kinds: list[bytes] = []
    sides: list[list[bytes]] = []
    for line in raw.body:
        kind = b" " if line == b"\n" else line[:1]
        if kind == b"\\":
            _unend(sides)
            continue
        content = b"\n" if line == b"\n" else line[1:]
        sides = [side for side, kept in ((old, b" -"), (new, b" +")) if kind in kept]
        for side in sides:
            side.append(content)
        kinds.append(kind)
    where = f"{name}, line {raw.line}"
    if any(not line.endswith(b"\n") for side in (old, new) for line in side[:-1]):
        raise PatchError(f"{where}: a no-newline marker before the end of the file")
    if b"" in old or b"" in new:
        raise PatchError(f"{where}: a no-newline marker after an empty line")
    if b"-" not in kinds and b"+" not in kinds:
        raise PatchError(f"{where}: a hunk that changes nothing")
    leading = next(i for i, kind in enumerate(kinds) if kind != b" ")
    trailing = next(i for i, kind in enumerate(reversed(kinds)) if kind != b" ")
    return Hunk(raw.line, *raw.starts, b"".join(old), b"".join(new), leading, trailing)


def _unend(sides: list[list[bytes]]) -> None:
    for side in sides:
        side[-1] = side[-1][:-1]
