"""Stage a transaction beside the tree, then commit it or roll it back by renames, from any point on."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_training import files
from lora_training.errors import PatchError
from lora_training.patching.model import ABSENT, Node, parents
from lora_training.patching.names import shown
from lora_training.patching.transaction import fs
from lora_training.patching.transaction.journal import Journal, Write


def stage(root: Path, journal: Journal, writes: Sequence[Write]) -> None:
    """Write all new content beside the tree, give the old files second names for an undo, and sync both to the disk.

    Raises OSError when something cannot be written, PatchError when a file changed after it was read.
    """
    kept = {entry.old for entry in journal.entries}
    folders: dict[str, bool] = {}
    unsynced = {os.path.dirname(f"{root}/{name}") for entry in journal.entries for name in entry.waiting}
    for entry, write in zip(journal.entries, writes, strict=True):
        _check_unchanged(root, write, folders)
        if entry.old and write.before:
            unsynced |= _link(root, entry.path, entry.old, write.before)
        # the old file of another entry may already wait under that name
        if write.after is not None and entry.new and entry.new not in kept:
            unsynced |= _link(root, write.same_as, entry.new, write.after)
    fs.for_each(list(unsynced), files.sync)


def _check_unchanged(root: Path, write: Write, folders: dict[str, bool]) -> None:
    full = f"{root}/{write.path}"
    if write.before is None or write.before.is_folder:
        # files behind a link that is about to be removed do not count
        changed = write.before is None and _reach(root, write.path, folders) and os.path.lexists(full)
    else:
        changed = write.before.stamp is not None and fs.stamp_of(os.lstat(full)) != write.before.stamp
    if changed:
        raise PatchError(
            f"{shown(write.path)} changed while this command ran", hint="nothing was written; run it again"
        )


def _link(root: Path, path: str | None, new: str, node: Node) -> set[str]:
    """Give the file `path` a second name; write it where there is none, or no hard links. Return what to sync."""
    if path is not None:
        with contextlib.suppress(OSError):
            os.link(f"{root}/{path}", f"{root}/{new}", follow_symlinks=False)
            return set()
    fs.write_new(f"{root}/{new}", node)
    return set() if node.is_link else {f"{root}/{new}"}


def discard(root: Path, journal: Journal) -> None:
    """Remove the files that wait beside the tree."""
    names = dict.fromkeys(name for entry in journal.entries for name in entry.waiting)
    # freeing a file's space may take milliseconds, so those that are gone do not count towards the threads
    fs.for_each([full for name in names if os.path.lexists(full := f"{root}/{name}")], fs.remove)


def finish(root: Path, journal: Journal) -> None:
    """Make the changes of a committed transaction. Can be repeated from any point.

    Folders come first, since only they can fail for want of space. Removals come before additions, since a file may
    replace a folder, and a folder a file.
    """
    moved = {entry.moved_from for entry in journal.entries}
    _make_folders(root, journal.made, journal.modes)
    for entry in journal.entries:
        if entry.after == ABSENT and entry.path not in moved:
            _remove(root, entry.path)
    _replace_folders(root, journal.dropped, journal.made, journal.modes)
    _move(root, [(entry.moved_from, entry.path) for entry in journal.entries if entry.moved_from])
    _replace_folders(root, journal.dropped, journal.made, journal.modes)
    _move(root, [(entry.new, entry.path) for entry in journal.entries if entry.new])
    _complete(root, journal)


def rollback(root: Path, journal: Journal) -> None:
    """Undo the changes of a transaction. Can be repeated from any point."""
    kept = {entry.old for entry in journal.entries}
    came = [e for e in journal.entries if e.before == ABSENT and e.new and not os.path.lexists(f"{root}/{e.new}")]
    _move(root, [(entry.path, entry.new) for entry in came if entry.new in kept])
    for entry in came:
        if entry.new not in kept:
            _remove(root, entry.path)
    dropped, made = journal.dropped[::-1], journal.made[::-1]
    _replace_folders(root, made, dropped, journal.modes)
    gone = [e for e in journal.entries if e.moved_from and not os.path.lexists(f"{root}/{e.moved_from}")]
    _move(root, [(entry.path, entry.moved_from) for entry in gone])
    _replace_folders(root, made, dropped, journal.modes)
    _move(root, [(entry.old, entry.path) for entry in journal.entries if entry.old])
    _complete(root, journal)


def _reach(root: Path, path: str, known: dict[str, bool]) -> bool:
    """Whether every folder above `path` is a real one. `known` is a cache, valid while no folder changes."""
    for parent in parents(path):
        if parent not in known:
            known[parent] = fs.is_folder(f"{root}/{parent}")
        if not known[parent]:
            return False
    return True


def _remove(root: Path, path: str) -> None:
    if _reach(root, path, {}) and not fs.is_folder(f"{root}/{path}"):
        fs.remove(f"{root}/{path}")


def _move(root: Path, pairs: Sequence[tuple[str, str]]) -> None:
    """Rename files. A missing source was renamed by an earlier try; a folder is left alone."""
    known: dict[str, bool] = {}
    for source, target in pairs:
        old, new = f"{root}/{source}", f"{root}/{target}"
        if not _reach(root, source, known) or not os.path.lexists(old) or fs.is_folder(old):
            continue
        if not _reach(root, target, known):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), new)
        fs.move(old, new)


def _replace_folders(root: Path, going: Sequence[str], coming: Sequence[str], modes: Mapping[str, int]) -> None:
    """Remove the empty folders among `going`, innermost first, and make those of `coming` that have room by then."""
    for folder in going:
        fs.remove_folder(f"{root}/{folder}")
    _make_folders(root, coming, modes)


def _make_folders(root: Path, folders: Sequence[str], modes: Mapping[str, int]) -> None:
    """Make folders, outermost first, except where a file is still in the way."""
    for folder in folders:
        full = f"{root}/{folder}"
        if fs.is_folder(os.path.dirname(full)) and not os.path.lexists(full):
            os.mkdir(full)
        # also for a folder that exists: the process may have been killed between these two steps
        if folder in modes and fs.is_folder(full) and stat.S_IMODE(os.lstat(full).st_mode) != modes[folder]:
            os.chmod(full, modes[folder])


def _complete(root: Path, journal: Journal) -> None:
    """Sync the changed folders to the disk before the journal is removed, and remove the files that still wait."""
    names = (*(entry.path for entry in journal.entries), *journal.made, *journal.dropped)
    folders = {os.path.dirname(f"{root}/{name}") for name in names} | {f"{root}/{folder}" for folder in journal.modes}
    fs.for_each([folder for folder in folders if fs.is_folder(folder)], files.sync)
    discard(root, journal)
