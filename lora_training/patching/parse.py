"""A patch file's bytes to a `Patch`: the guard deals out its lines, unidiff reads the hunks, the names are checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_training.errors import PatchError
from lora_training.patching import names
from lora_training.patching.gitdiff import GitReader
from lora_training.patching.hunks import read_hunks
from lora_training.patching.model import Change, Patch, sha256
from lora_training.patching.plaindiff import PlainReader
from lora_training.patching.scan import Section, scan

if TYPE_CHECKING:
    from collections.abc import Callable


def parse(
    name: str,
    data: bytes,
    *,
    strip: int | None = 1,
    exists: Callable[[str], bool] | None = None,
) -> Patch:
    """Read a patch file; `name` is what messages call it.

    `strip` is how many leading folders the names lose; None means 1 in git's diffs and, in others, the one number
    for which the file is in the tree, which `exists` answers (default: nothing is).
    Raises PatchError for anything that is not wholly understood, and for names that no patch may have.
    """
    preamble, sections = scan(name, data)
    if not sections:
        raise PatchError(f"{name} holds no diff", hint="a patch must be a `git diff` or a unified diff")
    there = exists or _nothing_exists
    changes = tuple(_change(name, section, strip, there) for section in sections)
    return Patch(name, sha256(data), preamble, changes)


def _nothing_exists(_name: str) -> bool:
    return False


def _change(name: str, section: Section, strip: int | None, exists: Callable[[str], bool]) -> Change:
    hunks = read_hunks(name, section.hunks)
    if section.git:
        change = GitReader(name, section, 1 if strip is None else strip).change(hunks)
    else:
        change = PlainReader(name, section, strip, exists).change(hunks)
    for path in change.paths:
        names.check(path, f"{name}, line {section.line}")
    if not (hunks or change.forward or change.action != "modify" or change.new_mode):
        raise PatchError(f"{name}, line {section.line}: a section that changes nothing")
    return change
