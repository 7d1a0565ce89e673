"""The journal of a transaction: which name each file has at which time, and how far the transaction got.

The phase is part of the journal's file name, so that the next phase is one rename and needs no disk space:
`staging` - the tree is untouched, new content lies beside it; to be undone.
`ready`   - everything needed is on the disk; to be finished.
`undo`    - finishing failed; to be undone.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lora_training import files
from lora_training.errors import PatchError
from lora_training.patching.model import REGULAR, Node, folders_of, parents, state_of
from lora_training.patching.names import shown
from lora_training.patching.transaction import fs

Phase = Literal["staging", "ready", "undo"]
PHASES: tuple[Phase, ...] = ("staging", "ready", "undo")
_FORMAT = 1


@dataclass(frozen=True)
class Write:
    """One file to write or delete: the content that was read and the new one. `same_as` names a file to link to."""

    path: str
    before: Node | None
    after: Node | None
    same_as: str | None = None

    @property
    def is_change(self) -> bool:
        """Whether the file's state changes."""
        return state_of(self.before) != state_of(self.after)


@dataclass(frozen=True)
class Entry:
    """One file of a transaction: its state before and after, and the names of its new and old version meanwhile.

    All names are relative to the transaction's root, and empty where there is none. `moved_from` is another entry's
    path whose file is renamed to this one; that entry has no file waiting.
    """

    path: str
    before: str
    after: str
    new: str
    old: str
    moved_from: str

    @property
    def waiting(self) -> list[str]:
        """The names of the files that wait beside the tree."""
        return [name for name in (self.new, self.old) if name]


@dataclass(frozen=True)
class Journal:
    """The changes of one transaction. `made` and `dropped` are the folders that are made and removed with its files.

    `modes` are the permission bits of the folders that are made, or made again by an undo.
    """

    command: str
    entries: tuple[Entry, ...]
    made: tuple[str, ...]
    dropped: tuple[str, ...]
    modes: Mapping[str, int] = field(default_factory=dict)


def plan(root: Path, command: str, writes: Sequence[Write], folders: Mapping[str, int | None] | None = None) -> Journal:
    """Plan where new and old content waits, and which folders are made and removed; `folders` as in `run`."""
    token = os.urandom(4).hex()
    made, dropped = _folders(root, writes, folders)
    waiting = [f"{folder}.lora-{token}-{number}" for number, folder in enumerate(_beside(root, writes, dropped))]
    removed = {write.path for write in writes if write.after is None}
    moved = {write.same_as for write in writes if write.same_as in removed}
    # a file that is linked to a new name needs no other second name
    kept = {write.same_as: n for n, write in enumerate(writes) if write.before is None and write.same_as not in moved}
    entries = []
    for number, write in enumerate(writes):
        moved_from = write.same_as or "" if write.same_as in moved else ""
        new = f"{waiting[number]}.new" if write.after and not moved_from else ""
        has_old = write.before and not write.before.is_folder and write.path not in moved
        keeper = kept.get(write.path)
        old = (f"{waiting[number]}.old" if keeper is None else f"{waiting[keeper]}.new") if has_old else ""
        entries.append(Entry(write.path, state_of(write.before), state_of(write.after), new, old, moved_from))
    modes = {folder: bits for folder in made if (bits := (folders or {}).get(folder)) is not None}
    for folder in dropped:
        if fs.is_folder(f"{root}/{folder}"):
            modes[folder] = stat.S_IMODE(os.lstat(f"{root}/{folder}").st_mode)
    return Journal(command, tuple(entries), made, dropped, modes)


def _beside(root: Path, writes: Sequence[Write], dropped: Sequence[str]) -> list[str]:
    """Return the nearest folder above each file that exists and stays, with a slash; new content waits there."""
    known = dict.fromkeys(dropped, False)
    found = []
    for write in writes:
        above = parents(write.path)[::-1]
        for folder in above:
            known.setdefault(folder, fs.is_folder(f"{root}/{folder}"))
        found.append(next((f"{folder}/" for folder in above if known[folder]), ""))
    return found


def _folders(
    root: Path, writes: Sequence[Write], folders: Mapping[str, int | None] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the folders to make, outermost first, and those to remove if they are empty by then, innermost first."""
    needed = folders_of(write.path for write in writes if write.after)
    if folders is None:
        left = folders_of(write.path for write in writes if write.before and not write.after) - needed
    else:
        left = {folder for folder, bits in folders.items() if bits is None} - needed
        needed |= {folder for folder, bits in folders.items() if bits is not None}
    prefix = len(f"{root}/")
    for write in writes:
        if write.before and write.before.is_folder:
            left |= {path[prefix:] for path, _, _ in os.walk(f"{root}/{write.path}")}
    made = sorted(folder for folder in needed if not fs.is_folder(f"{root}/{folder}"))
    return tuple(made), tuple(sorted(left, reverse=True))


def check_inside(root: Path, journal: Journal) -> None:
    """Raise PatchError unless every name is below the root, and not through a symbolic link.

    A link that the transaction itself replaces with a folder may be above a file's name; the commit checks again.
    """
    replaced = {entry.path for entry in journal.entries} & {*journal.made, *journal.dropped}
    waiting = {name for entry in journal.entries for name in entry.waiting}
    names = {name for entry in journal.entries for name in (entry.path, entry.moved_from) if name}
    names |= {*waiting, *journal.made, *journal.dropped}
    for name in names:
        if not name or name.startswith("/") or "/../" in f"/{name}/" or "\0" in name:
            raise PatchError(f"{shown(name)} is outside {root}", hint="nothing was written")
    for link in [folder for folder in folders_of(names) if os.path.islink(f"{root}/{folder}")]:
        through = [name for name in (waiting if link in replaced else names) if name.startswith(f"{link}/")]
        if through:
            raise PatchError(f"{shown(through[0])} would go through a symbolic link", hint="nothing was written")


def path_of(state: Path, phase: Phase) -> Path:
    """Return the path of the journal in a phase."""
    return state / f"journal.{phase}"


def pending(state: Path) -> Phase | None:
    """Return the phase of an unfinished transaction, None if there is none."""
    return next((phase for phase in PHASES if path_of(state, phase).exists()), None)


def write(state: Path, journal: Journal) -> None:
    """Write the journal of a transaction that starts staging, and sync it to the disk."""
    content = {**vars(journal), "entries": [vars(entry) for entry in journal.entries]}
    data = json.dumps({"format": _FORMAT, **content}).encode()
    draft = os.fspath(state / "journal.draft")
    made = [folder for folder in (state, *state.parents) if not folder.exists()]
    state.mkdir(parents=True, exist_ok=True)
    for folder in made:
        files.sync(folder.parent)
    fs.remove(draft)
    try:
        fs.write_new(draft, Node(REGULAR, data))
        files.sync(draft)
        os.rename(draft, path_of(state, "staging"))
    except OSError:
        fs.remove(draft)
        raise
    files.sync(state)


def advance(state: Path, old: Phase, new: Phase) -> None:
    """Rename the journal to its next phase, and sync that to the disk."""
    os.rename(path_of(state, old), path_of(state, new))
    files.sync(state)


def close(state: Path, phase: Phase) -> None:
    """Remove the journal at the end of a transaction."""
    fs.remove(path_of(state, phase))
    files.sync(state)


def read(state: Path, phase: Phase) -> Journal:
    """Read the journal in a phase. Raises PatchError when another version wrote it, or it was edited."""
    path = path_of(state, phase)
    try:
        return _parse(json.loads(path.read_bytes()))
    except (AttributeError, RecursionError, ValueError, KeyError, TypeError) as exc:
        hint = "was it written by another version of lora? let that one run `lora patch recover`"
        raise PatchError(f"cannot read {path}: {exc}", hint=hint) from exc


def _parse(content: dict[str, Any]) -> Journal:
    if content["format"] != _FORMAT:
        raise ValueError("another format")
    entries = tuple(Entry(**entry) for entry in content["entries"])
    made, dropped = tuple(content["made"]), tuple(content["dropped"])
    # older versions wrote no modes
    modes = {str(name): mode & 0o7777 for name, mode in content.get("modes", {}).items()}
    for name in (content["command"], *made, *dropped, *(name for entry in entries for name in vars(entry).values())):
        if not isinstance(name, str):
            raise TypeError("a name is not text")
        # raises ValueError for a name that no file can have
        os.fsencode(name)
    return Journal(content["command"], entries, made, dropped, modes)
