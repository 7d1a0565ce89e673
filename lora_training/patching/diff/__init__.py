"""Read a patch file into a `Patch`: the guard splits its lines into files and hunks, and unidiff reads the hunks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

from lora_training.errors import PatchError
from lora_training.patching import names
from lora_training.patching.diff import guard
from lora_training.patching.diff.git import GitReader
from lora_training.patching.diff.unified import MOST_LEVELS, PlainReader
from lora_training.patching.model import Change, Hunk, Patch, sha256

if TYPE_CHECKING:
    from unidiff.patch import Hunk as UnidiffHunk

_NO_NEWLINE = "\\ No newline at end of file\n"


def parse(
    name: str,
    data: bytes,
    *,
    strip: int | None = 1,
    exists: Callable[[str], bool] | None = None,
) -> Patch:
    """Read a patch file; `name` is its name in messages.

    `strip` is the number of leading folders to remove from names; None means 1 in git's diffs and, in others, the only
    number for which the file exists in the tree, according to `exists` (by default, none does).
    Raises PatchError for every line that is not understood, and for names that could leave the tree.
    """
    preamble, sections = guard.scan(name, data)
    if not sections:
        raise PatchError(f"{name} holds no diff", hint="a patch must be a `git diff` or a unified diff")
    there = exists or (lambda _: False)
    readers = [
        GitReader(name, section, 1 if strip is None else strip)
        if section.git
        else PlainReader(name, section, strip, there)
        for section in sections
    ]
    if strip is None:
        _agree([reader for reader in readers if isinstance(reader, GitReader)])
    return Patch(name, sha256(data), preamble, tuple(_change(name, reader) for reader in readers))


def _agree(readers: list[GitReader]) -> None:
    """Set how many folders to strip in all git sections: more than one in a diff of two folders (--no-index)."""
    odd = next((reader for reader in readers if not reader.agrees(1)), None)
    levels = next((n for n in range(2, MOST_LEVELS) if odd.agrees(n)), 1) if odd else 1
    if odd and not all(reader.agrees(levels) for reader in readers):
        levels = 1
    for reader in readers:
        reader.levels = levels


def _change(name: str, reader: GitReader | PlainReader) -> Change:
    section = reader.section
    hunks = _hunks(name, section.hunks)
    change = reader.change(hunks)
    for path in change.paths:
        names.check(path, f"{name}, line {section.line}")
    if not (hunks or change.forward or change.action != "modify" or change.new_mode):
        raise PatchError(f"{name}, line {section.line}: a section that changes nothing", hint=guard.DAMAGED)
    return change


def _hunks(name: str, raw_hunks: list[guard.RawHunk]) -> tuple[Hunk, ...]:
    """Return the hunks of one file.

    Raises PatchError for a hunk that unidiff does not read whole, that changes nothing, or is out of order.
    """
    if not raw_hunks:
        return ()
    hunks = [_hunk(name, raw, read) for raw, read in zip(raw_hunks, _read(name, raw_hunks), strict=True)]
    if any(b.old_start < a.old_start for a, b in pairwise(hunks)):
        raise PatchError(
            f"{name}, line {raw_hunks[0].line}: the hunks of this file are out of order", hint=guard.DAMAGED
        )
    return tuple(hunks)


def _read(name: str, raw_hunks: list[guard.RawHunk]) -> list[UnidiffHunk]:
    """Let unidiff read the hunks, and compare all lines, since it drops some silently; latin-1 keeps every byte."""
    from unidiff.errors import UnidiffParseError
    from unidiff.patch import PatchSet

    given = [[raw.header.decode("latin-1"), *map(_for_unidiff, raw.body)] for raw in raw_hunks]
    try:
        files = PatchSet(["--- a\n", "+++ b\n", *(line for lines in given for line in lines)])
    except UnidiffParseError as exc:
        raise PatchError(f"{name}, line {raw_hunks[0].line}: {exc}", hint=guard.DAMAGED) from exc
    found = [hunk for file in files for hunk in file]
    if [list(map(str, hunk)) for hunk in found] != [lines[1:] for lines in given]:
        raise PatchError(f"{name}, line {raw_hunks[0].line}: the hunks were not all read", hint=guard.DAMAGED)
    return found


def _for_unidiff(line: bytes) -> str:
    """An empty line stands for an empty context line; the marker's wording depends on the language of its writer."""
    if line == b"\n":
        return " \n"
    return _NO_NEWLINE if line.startswith(b"\\") else line.decode("latin-1")


def _hunk(name: str, raw: guard.RawHunk, read: UnidiffHunk) -> Hunk:
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
    where = f"{name}, line {raw.line}"
    if any(not line.endswith(b"\n") for side in (old, new) for line in side[:-1]):
        raise PatchError(f"{where}: a no-newline marker before the end of the file", hint=guard.DAMAGED)
    if b"" in old or b"" in new:
        raise PatchError(f"{where}: a no-newline marker after an empty line", hint=guard.DAMAGED)
    changed = [number for number, kind in enumerate(kinds) if kind != " "]
    if not changed:
        raise PatchError(f"{where}: a hunk that changes nothing", hint=guard.DAMAGED)
    leading, trailing = changed[0], len(kinds) - 1 - changed[-1]
    return Hunk(raw.line, read.source_start, read.target_start, b"".join(old), b"".join(new), leading, trailing)
