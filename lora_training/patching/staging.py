"""A transaction before its decision: new content, and second names for the old, beside the tree."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from lora_training.errors import PatchError
from lora_training.patching import fs, layout, tree
from lora_training.patching.names import shown

if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from pathlib import Path

    from lora_training.patching.edit import Edit
    from lora_training.patching.journal import Entry, Journal
    from lora_training.patching.model import Node


def stage(root: Path, plan: Journal, edits: Sequence[Edit]) -> None:
    """Have everything that the change needs on the disk, beside the tree.

    Raises OSError when it cannot be written, PatchError when a file is not as it was read.
    """
    kept = {entry.old for entry in plan.entries}
    pairs = list(zip(plan.entries, edits, strict=True))
    fs.for_each(pairs, lambda pair: _stage_one(root, *pair, kept))
    names = [name for entry in plan.entries for name in (entry.new, entry.old) if name]
    fs.for_each(list({os.path.dirname(f"{root}/{name}") for name in names}), fs.sync_folder)


def _stage_one(root: Path, entry: Entry, edit: Edit, kept: Container[str]) -> None:
    base = os.fspath(root)
    _check_unchanged(root, edit)
    if entry.old:
        _keep(f"{base}/{entry.path}", f"{base}/{entry.old}", edit.before)
    # a file that is kept under its new name is there already
    if edit.after is not None and entry.new and entry.new not in kept:
        _put(f"{base}/{entry.new}", edit.after, None if edit.same_as is None else f"{base}/{edit.same_as}")


def _check_unchanged(root: Path, edit: Edit) -> None:
    full = f"{root}/{edit.path}"
    if edit.before is None or edit.before.is_folder:
        # what lies behind a link that is about to go does not count
        changed = edit.before is None and layout.reach(root, edit.path, {}) and os.path.lexists(full)
    else:
        changed = edit.before.stamp is not None and tree.stamp_of(os.lstat(full)) != edit.before.stamp
    if changed:
        raise PatchError(f"{shown(edit.path)} changed while this command ran", hint="nothing was written; run it again")


def _keep(path: str, old: str, node: Node | None) -> None:
    """A second name for the file as it is, for an undo; a copy where there are no hard links."""
    try:
        fs.same_again(path, old)
    except OSError:
        if node is None:  # pragma: no cover - only files that were read are kept
            raise
        fs.write_new(old, node)


def _put(new: str, node: Node, same_as: str | None) -> None:
    if same_as is not None:
        with contextlib.suppress(OSError):
            fs.same_again(same_as, new)
            return
    fs.write_new(new, node)


def discard(root: Path, plan: Journal) -> None:
    """Take away whatever still waits."""
    for entry in plan.entries:
        for name in (entry.new, entry.old):
            if name:
                fs.remove(f"{root}/{name}")
