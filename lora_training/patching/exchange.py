"""A transaction after its decision: renames that make the change, or take it back, from any point on."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from lora_training.patching import fs, journal, layout, staging

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lora_training.patching.journal import Journal


def finish(root: Path, plan: Journal) -> None:
    """Make the change. Can be repeated from any point.

    Folders come first, being all that can fail for want of space. What goes makes room before what comes: a file may
    take a folder's name, and a folder a file's.
    """
    moved = {entry.moved_from for entry in plan.entries}
    _make_folders(root, plan.made, plan.modes)
    for entry in plan.entries:
        if journal.is_removal(entry) and entry.path not in moved:
            _remove(root, entry.path)
    _exchange_folders(root, plan.dropped, plan.made, plan.modes)
    _move(root, [(entry.moved_from, entry.path) for entry in plan.entries if entry.moved_from])
    _exchange_folders(root, plan.dropped, plan.made, plan.modes)
    _move(root, [(entry.new, entry.path) for entry in plan.entries if entry.new])
    _settle(root, plan)


def undo(root: Path, plan: Journal) -> None:
    """Take the change back. Can be repeated from any point."""
    kept = {entry.old for entry in plan.entries}
    came = [e for e in plan.entries if journal.is_creation(e) and e.new and not os.path.lexists(f"{root}/{e.new}")]
    _move(root, [(entry.path, entry.new) for entry in came if entry.new in kept])
    for entry in came:
        if entry.new not in kept:
            _remove(root, entry.path)
    dropped, made = plan.dropped[::-1], plan.made[::-1]
    _exchange_folders(root, made, dropped, plan.modes)
    gone = [e for e in plan.entries if e.moved_from and not os.path.lexists(f"{root}/{e.moved_from}")]
    _move(root, [(entry.path, entry.moved_from) for entry in gone])
    _exchange_folders(root, made, dropped, plan.modes)
    _move(root, [(entry.old, entry.path) for entry in plan.entries if entry.old])
    _settle(root, plan)


def _remove(root: Path, path: str) -> None:
    if layout.reach(root, path, {}) and not fs.is_folder(f"{root}/{path}"):
        fs.remove(f"{root}/{path}")


def _move(root: Path, pairs: Sequence[tuple[str, str]]) -> None:
    """Give files their other names. A file that is not there has gone already; a folder is none."""
    known: dict[str, bool] = {}
    for source, target in pairs:
        old, new = f"{root}/{source}", f"{root}/{target}"
        if not layout.reach(root, source, known) or not fs.is_file(old):
            continue
        if not layout.reach(root, target, known):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), new)
        fs.move(old, new)


def _exchange_folders(root: Path, going: Sequence[str], coming: Sequence[str], modes: Mapping[str, int]) -> None:
    """Take folders away that are empty by now, innermost first, and make those that there is room for."""
    for folder in going:
        fs.remove_folder(f"{root}/{folder}")
    _make_folders(root, coming, modes)


def _make_folders(root: Path, folders: Sequence[str], modes: Mapping[str, int]) -> None:
    """Make folders, outermost first, but those whose place, or a place above, is still taken."""
    for folder in folders:
        full = f"{root}/{folder}"
        if fs.is_folder(os.path.dirname(full)) and not os.path.lexists(full):
            os.mkdir(full)
        # not only when it was made just now: a kill may have come in between
        if folder in modes and fs.is_folder(full):
            fs.set_mode(full, modes[folder])


def _settle(root: Path, plan: Journal) -> None:
    """Have the new names on the disk before the journal goes, and take away what waited for the other outcome."""
    names = (*(entry.path for entry in plan.entries), *plan.made, *plan.dropped)
    folders = {os.path.dirname(f"{root}/{name}") for name in names} | {f"{root}/{folder}" for folder in plan.modes}
    fs.for_each([folder for folder in folders if fs.is_folder(folder)], fs.sync_folder)
    staging.discard(root, plan)
