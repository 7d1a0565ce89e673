"""A transaction before its decision: new content, and second names for the old, beside the tree."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from lora_training.errors import PatchError
from lora_training.patching import fs, layout, tree
from lora_training.patching.names import shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lora_training.patching.edit import Edit
    from lora_training.patching.journal import Journal
    from lora_training.patching.model import Node


def stage(root: Path, plan: Journal, edits: Sequence[Edit]) -> None:
    """Have everything that the change needs on the disk, beside the tree.

    Raises OSError when it cannot be written, PatchError when a file is not as it was read.
    """
    kept = {entry.old for entry in plan.entries}
    folders: dict[str, bool] = {}
    with fs.batch() as batch:
        for entry, edit in zip(plan.entries, edits, strict=True):
            _check_unchanged(root, edit, folders)
            if entry.old:
                _keep(f"{root}/{entry.path}", f"{root}/{entry.old}", edit.before, batch)
            # a file that is kept under its new name is there already
            if edit.after is not None and entry.new and entry.new not in kept:
                _put(
                    f"{root}/{entry.new}", edit.after, None if edit.same_as is None else f"{root}/{edit.same_as}", batch
                )
    names = [name for entry in plan.entries for name in (entry.new, entry.old) if name]
    fs.for_each(list({os.path.dirname(f"{root}/{name}") for name in names}), fs.sync_folder)


def _check_unchanged(root: Path, edit: Edit, folders: dict[str, bool]) -> None:
    full = f"{root}/{edit.path}"
    if edit.before is None or edit.before.is_folder:
        # what lies behind a link that is about to go does not count
        changed = edit.before is None and layout.reach(root, edit.path, folders) and os.path.lexists(full)
    else:
        changed = edit.before.stamp is not None and tree.stamp_of(os.lstat(full)) != edit.before.stamp
    if changed:
        raise PatchError(f"{shown(edit.path)} changed while this command ran", hint="nothing was written; run it again")


def _keep(path: str, old: str, node: Node | None, batch: fs.Batch) -> None:
    """A second name for the file as it is, for an undo; a copy where there are no hard links."""
    try:
        fs.same_again(path, old)
    except OSError:
        if node is None:  # pragma: no cover - only files that were read are kept
            raise
        batch.write(old, node)


def _put(new: str, node: Node, same_as: str | None, batch: fs.Batch) -> None:
    if same_as is not None:
        with contextlib.suppress(OSError):
            fs.same_again(same_as, new)
            return
    batch.write(new, node)


def discard(root: Path, plan: Journal) -> None:
    """Take away whatever still waits."""
    names = dict.fromkeys(name for entry in plan.entries for name in (entry.new, entry.old) if name)
    # to give the space of a file free may take milliseconds; one that is not there takes none
    fs.for_each([full for name in names if os.path.lexists(full := f"{root}/{name}")], fs.remove)
