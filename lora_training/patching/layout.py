"""A transaction on paper: which name each file has at which time, and that all of them are inside."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from lora_training.errors import PatchError
from lora_training.patching import fs
from lora_training.patching.journal import Entry, Journal
from lora_training.patching.model import state_of
from lora_training.patching.names import shown
from lora_training.patching.plan import folders_of, parents

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lora_training.patching.edit import Edit


def plan(root: Path, command: str, edits: Sequence[Edit], folders: Mapping[str, int | None] | None = None) -> Journal:
    """Lay the edits out: where new content waits, what old content comes back from, which folders come and go.

    `folders` are those that shall be there afterwards, with their permission bits, or shall not (None); without it
    those go that the edits leave empty.
    """
    token = os.urandom(4).hex()
    made, dropped = _folders(root, edits, folders)
    beside = _Beside(root, dropped)
    going = {edit.path for edit in edits if edit.after is None}
    moved = {edit.same_as for edit in edits if edit.same_as in going}
    # a file that gets a copy needs no other one to come back from
    kept = {edit.same_as: n for n, edit in enumerate(edits) if edit.before is None and edit.same_as not in moved}
    entries = []
    for number, edit in enumerate(edits):
        waiting = f"{beside.of(edit.path)}.lora-{token}-{number}"
        moved_from = edit.same_as if edit.same_as in moved else ""
        new = f"{waiting}.new" if edit.after and not moved_from else ""
        old = f"{waiting}.old" if edit.before and not edit.before.is_folder and edit.path not in moved else ""
        if old and edit.path in kept:
            keeper = kept[edit.path]
            old = f"{beside.of(edits[keeper].path)}.lora-{token}-{keeper}.new"
        entries.append(Entry(edit.path, state_of(edit.before), state_of(edit.after), new, old, moved_from or ""))
    wanted = {folder: bits for folder in made if (bits := (folders or {}).get(folder)) is not None}
    return Journal(command, tuple(entries), made, dropped, wanted | _modes(root, dropped))


def check_inside(root: Path, plan: Journal) -> None:
    """Raise PatchError unless every name stays below the root, and not through a symbolic link.

    A link that the plan itself exchanges for a folder may stand above a file's name: `reach` looks again.
    """
    exchanged = {entry.path for entry in plan.entries} & {*plan.made, *plan.dropped}
    waiting = {name for entry in plan.entries for name in (entry.new, entry.old) if name}
    names = {name for entry in plan.entries for name in (entry.path, entry.moved_from) if name}
    names |= {*waiting, *plan.made, *plan.dropped}
    for name in names:
        if not name or name.startswith("/") or "/../" in f"/{name}/" or "\0" in name:
            raise PatchError(f"{shown(name)} is outside {root}", hint="nothing was written")
    for link in [folder for folder in folders_of(names) if os.path.islink(f"{root}/{folder}")]:
        through = [name for name in (waiting if link in exchanged else names) if name.startswith(f"{link}/")]
        if through:
            raise PatchError(f"{shown(through[0])} would go through a symbolic link", hint="nothing was written")


def reach(root: Path, path: str, known: dict[str, bool]) -> bool:
    """Whether there are real folders all the way to a name, and no link. `known` is good while no folder changes."""
    for parent in parents(path):
        if parent not in known:
            known[parent] = fs.is_folder(f"{root}/{parent}")
        if not known[parent]:
            return False
    return True


class _Beside:
    """Where files wait: in the nearest folder above that is there and stays, which also proves that we may write."""

    def __init__(self, root: Path, dropped: Sequence[str]) -> None:
        self.root = os.fspath(root)
        self.known: dict[str, bool] = dict.fromkeys(dropped, False)

    def of(self, path: str) -> str:
        """The folder's name, with a slash unless it is the root."""
        for parent in reversed(parents(path)):
            if parent not in self.known:
                self.known[parent] = fs.is_folder(f"{self.root}/{parent}")
            if self.known[parent]:
                return parent + "/"
        return ""


def _folders(
    root: Path, edits: Sequence[Edit], folders: Mapping[str, int | None] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The folders to make, outermost first, and those to take away if they are empty by then, innermost first."""
    needed = folders_of(edit.path for edit in edits if edit.after)
    if folders is None:
        left = folders_of(edit.path for edit in edits if edit.before and not edit.after) - needed
    else:
        left = {folder for folder, bits in folders.items() if bits is None} - needed
        needed |= {folder for folder, bits in folders.items() if bits is not None}
    left |= {folder for edit in edits if edit.before and edit.before.is_folder for folder in _tree(root, edit.path)}
    made = sorted(folder for folder in needed if not fs.is_folder(f"{root}/{folder}"))
    return tuple(made), tuple(sorted(left, reverse=True))


def _tree(root: Path, folder: str) -> list[str]:
    """A folder and all folders in it."""
    prefix = len(f"{root}/")
    return [path[prefix:] for path, _, _ in os.walk(f"{root}/{folder}")]


def _modes(root: Path, folders: Sequence[str]) -> dict[str, int]:
    """The permission bits of those that are there."""
    there = [folder for folder in folders if fs.is_folder(f"{root}/{folder}")]
    return {folder: stat.S_IMODE(os.lstat(f"{root}/{folder}").st_mode) for folder in there}
