"""The note that a transaction leaves for whoever comes after it: what it changes, and how far it got.

The phase is the file's name, so that going from one phase to the next is one rename and needs no disk space:
`staging` - the tree is untouched, new content lies beside it; to be undone.
`ready`   - everything needed is on the disk; to be finished.
`undo`    - finishing failed; to be undone.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from lora_training.errors import PatchError
from lora_training.patching import fs
from lora_training.patching.model import ABSENT, REGULAR, Node
from lora_training.patching.names import raw

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Phase = Literal["staging", "ready", "undo"]
PHASES: tuple[Phase, ...] = ("staging", "ready", "undo")
_FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """One name that changes: its state before and after, and where the new and the old file wait meanwhile.

    All names are relative to the transaction's root, and empty where there is none. `moved_from` is another entry's
    path, whose file comes here as it is; that entry has neither file waiting.
    """

    path: str
    before: str
    after: str
    new: str
    old: str
    moved_from: str


@dataclass(frozen=True)
class Journal:
    """What one transaction does: `made` and `dropped` are the folders that appear and vanish with its files.

    `modes` are the permission bits of those that have to get them when they are made, or made again.
    """

    command: str
    entries: tuple[Entry, ...]
    made: tuple[str, ...]
    dropped: tuple[str, ...]
    modes: Mapping[str, int] = field(default_factory=dict)


def path_of(state: Path, phase: Phase) -> Path:
    """Where a journal in that phase lies."""
    return state / f"journal.{phase}"


def pending(state: Path) -> Phase | None:
    """The phase of a transaction that did not come to its end, if there is one."""
    return next((phase for phase in PHASES if path_of(state, phase).exists()), None)


def write(state: Path, journal: Journal) -> None:
    """Note down a transaction that is about to stage; on the disk when this returns."""
    content = {**vars(journal), "entries": [vars(entry) for entry in journal.entries]}
    data = json.dumps({"format": _FORMAT, **content}).encode()
    draft = os.fspath(state / "journal.draft")
    _make_folder(state)
    fs.remove(draft)
    try:
        fs.write_new(draft, Node(REGULAR, data))
        os.rename(draft, path_of(state, "staging"))
    except OSError:
        fs.remove(draft)
        raise
    fs.sync_folder(state)


def _make_folder(state: Path) -> None:
    made = [folder for folder in (state, *state.parents) if not folder.exists()]
    state.mkdir(parents=True, exist_ok=True)
    for folder in made:
        fs.sync_folder(folder.parent)


def advance(state: Path, old: Phase, new: Phase) -> None:
    """Go from one phase to the next, for good."""
    os.rename(path_of(state, old), path_of(state, new))
    fs.sync_folder(state)


def close(state: Path, phase: Phase) -> None:
    """The end of a transaction."""
    fs.remove(path_of(state, phase))
    fs.sync_folder(state)


def read(state: Path, phase: Phase) -> Journal:
    """The journal in that phase. Raises PatchError when a newer version wrote it, or someone changed it."""
    path = path_of(state, phase)
    try:
        content = json.loads(path.read_bytes())
        if content.pop("format") != _FORMAT:
            raise ValueError("another format")  # noqa: TRY301 - one way out for all that is wrong with it
        entries = tuple(Entry(**entry) for entry in content["entries"])
        made, dropped = tuple(content["made"]), tuple(content["dropped"])
        # older ones say nothing about modes
        modes = {str(name): _mode(mode) for name, mode in content.get("modes", {}).items()}
        _check(content["command"], *made, *dropped, *(value for entry in entries for value in vars(entry).values()))
        return Journal(content["command"], entries, made, dropped, modes)
    except (AttributeError, RecursionError, ValueError, KeyError, TypeError) as exc:
        hint = "was it written by another version of lora? let that one run `lora patch recover`"
        raise PatchError(f"cannot read {path}: {exc}", hint=hint) from exc


def _check(*values: object) -> None:
    if not all(isinstance(value, str) for value in values):
        raise TypeError("something else in the place of a name")
    for value in values:
        raw(str(value))


def _mode(value: object) -> int:
    if type(value) is not int:
        raise TypeError("something else in the place of permissions")
    return value & 0o7777


def is_creation(entry: Entry) -> bool:
    """Whether the entry makes a file that was not there."""
    return entry.before == ABSENT


def is_removal(entry: Entry) -> bool:
    """Whether the entry takes a file away."""
    return entry.after == ABSENT
