"""The hunks of one file, read by unidiff from the lines that the guard gave them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from lora_training.errors import PatchError
from lora_training.patching.model import Hunk

if TYPE_CHECKING:
    from unidiff.patch import Hunk as UnidiffHunk

    from lora_training.patching.scan import RawHunk

_NO_NEWLINE = "\\ No newline at end of file\n"


def read_hunks(name: str, raw_hunks: list[RawHunk]) -> tuple[Hunk, ...]:
    """Return the hunks of one file.

    Raises PatchError for a hunk that unidiff does not read whole, that changes nothing, or is out of order.
    """
    if not raw_hunks:
        return ()
    hunks = [_hunk(name, raw, read) for raw, read in zip(raw_hunks, _read(name, raw_hunks), strict=True)]
    if any(b.old_start < a.old_start for a, b in pairwise(hunks)):
        raise PatchError(f"{name}, line {raw_hunks[0].line}: the hunks of this file are out of order")
    return tuple(hunks)


def _read(name: str, raw_hunks: list[RawHunk]) -> list[UnidiffHunk]:
    """Let unidiff read the hunks; latin-1 keeps every byte. It drops some lines silently, so all are counted again."""
    from unidiff.errors import UnidiffParseError
    from unidiff.patch import PatchSet

    given = [[raw.header.decode("latin-1"), *map(_for_unidiff, raw.body)] for raw in raw_hunks]
    try:
        files = PatchSet(["--- a\n", "+++ b\n", *(line for lines in given for line in lines)])
    except UnidiffParseError as exc:
        raise PatchError(f"{name}, line {raw_hunks[0].line}: {exc}") from exc
    found = [hunk for file in files for hunk in file]
    if [list(map(str, hunk)) for hunk in found] != [lines[1:] for lines in given]:
        raise PatchError(f"{name}, line {raw_hunks[0].line}: the hunks were not all read")
    return found


def _for_unidiff(line: bytes) -> str:
    """An empty line stands for an empty context line; the marker's wording depends on the language of its writer."""
    if line == b"\n":
        return " \n"
    return _NO_NEWLINE if line.startswith(b"\\") else line.decode("latin-1")


def _hunk(name: str, raw: RawHunk, read: UnidiffHunk) -> Hunk:
    kinds: list[str] = []
    values: list[bytes] = []
    for line in read:
        if line.line_type == "\\":
            values[-1] = values[-1][:-1]
        else:
            kinds.append(line.line_type)
            values.append(line.value.encode("latin-1"))
    old = [value for kind, value in zip(kinds, values, strict=True) if kind != "+"]
    new = [value for kind, value in zip(kinds, values, strict=True) if kind != "-"]
    _check(f"{name}, line {raw.line}", kinds, old, new)
    leading = next(i for i, kind in enumerate(kinds) if kind != " ")
    trailing = next(i for i, kind in enumerate(reversed(kinds)) if kind != " ")
    return Hunk(raw.line, read.source_start, read.target_start, b"".join(old), b"".join(new), leading, trailing)


def _check(where: str, kinds: list[str], old: list[bytes], new: list[bytes]) -> None:
    if any(not line.endswith(b"\n") for side in (old, new) for line in side[:-1]):
        raise PatchError(f"{where}: a no-newline marker before the end of the file")
    if b"" in old or b"" in new:
        raise PatchError(f"{where}: a no-newline marker after an empty line")
    if not {"-", "+"} & set(kinds):
        raise PatchError(f"{where}: a hunk that changes nothing")
