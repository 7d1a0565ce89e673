"""Change a set of files completely or not at all, even when the process is killed or the disk is full.

Nothing in the tree changes while new content is written beside it. When all of it is on the disk, renaming the journal
commits the transaction; what follows is renames, which need no space and can be repeated. (The exception: when a folder
replaces a file or a file a folder, folders are made after the commit. If the disk is full at that moment, the journal
stays and the next command completes the transaction.)

Order on the disk, as far as `fsync` of files and folders guarantees it: the journal before the first new file; every
new file and every second name before the commit; the commit before the first rename; all renames and folder changes
before the journal is removed. Files that only an undo needs are removed before the journal, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lora_training import locks
from lora_training.errors import PatchError
from lora_training.patching.model import ABSENT, REGULAR, Node, state_of
from lora_training.patching.names import shown
from lora_training.patching.transaction import commit, fs, journal
from lora_training.patching.transaction.journal import Journal, Write
from lora_training.workspace import Workspace


@dataclass(frozen=True)
class Root:
    """The folder `path` that all changes are below, which is also locked; the journal is in the folder `state`."""

    path: Path
    state: Path


@dataclass(frozen=True)
class Recovered:
    """An earlier command that was interrupted, and whether its changes were completed or undone."""

    command: str
    outcome: Literal["finished", "undone"]


def root_of(workspace: Workspace) -> Root:
    """The transaction root of a checkout: all its upstreams together."""
    return Root(workspace.root, workspace.state / "patching")


@contextmanager
def exclusive(root: Root) -> Iterator[Recovered | None]:
    """Lock the root for writing and complete an interrupted command first; yields that command."""
    with locks.exclusive(root.path, error=PatchError):
        yield recover(root)


@contextmanager
def shared(root: Root) -> Iterator[Recovered | None]:
    """Lock the root for reading and complete an interrupted command first; yields that command."""
    recovered = None
    if journal.pending(root.state):
        with exclusive(root) as recovered:
            pass
    with locks.shared(root.path, error=PatchError):
        yield recovered


@contextmanager
def shared_lock(workspace: Workspace) -> Iterator[None]:
    """Keep every tree unchanged. A training holds this until it ends, since each attempt imports upstream again."""
    with shared(root_of(workspace)):
        yield


def file_write(root: Root, path: Path, data: bytes | None) -> Write:
    """Return the write that gives the file `path` that content, or removes it; its permissions stay."""
    name = os.path.relpath(path, root.path)
    before = fs.read(root.path, name)
    after = None if data is None else Node(REGULAR, data, None if before is None else before.permissions)
    return Write(name, before, after)


def below(root: Root, folder: Path, writes: Iterable[Write]) -> list[Write]:
    """Return the writes in `folder`, with names relative to the root."""
    prefix = os.path.relpath(folder, root.path)
    return [
        replace(write, path=f"{prefix}/{write.path}", same_as=write.same_as and f"{prefix}/{write.same_as}")
        for write in writes
    ]


def run(root: Root, command: str, writes: Sequence[Write], folders: Mapping[str, int | None] | None = None) -> None:
    """Make all `writes`, or none. The caller holds the lock.

    `folders` maps folders to make to their permission bits, and folders to remove to None; without it, folders that
    become empty are removed. Raises PatchError when a write fails; everything is then as it was.
    """
    writes = [write for write in writes if write.is_change]
    if not writes:
        return
    planned = journal.plan(root.path, command, writes, folders)
    journal.check_inside(root.path, planned)
    _stage(root, planned, writes)
    try:
        commit.finish(root.path, planned)
    except OSError as exc:
        journal.advance(root.state, "ready", "undo")
        _resume(root, planned, "undo")
        raise _failed(exc) from exc
    journal.close(root.state, "ready")


def _stage(root: Root, planned: Journal, writes: Sequence[Write]) -> None:
    try:
        journal.write(root.state, planned)
        commit.stage(root.path, planned, writes)
        journal.advance(root.state, "staging", "ready")
    except BaseException as exc:
        commit.discard(root.path, planned)
        if journal.pending(root.state):
            journal.close(root.state, "staging")
        if isinstance(exc, OSError):
            raise _failed(exc) from exc
        raise


def recover(root: Root) -> Recovered | None:
    """Complete or undo an interrupted command, if there is one. The caller holds the lock.

    Raises PatchError when somebody changed one of its files since; that file is not touched.
    """
    phase = journal.pending(root.state)
    fs.remove(root.state / "journal.draft")
    if phase is None:
        return None
    planned = journal.read(root.state, phase)
    # the journal may have come with a folder from elsewhere
    journal.check_inside(root.path, planned)
    if phase == "staging":
        commit.discard(root.path, planned)
        journal.close(root.state, phase)
    else:
        _check_untouched(root.path, planned)
        _resume(root, planned, phase)
    return Recovered(planned.command, "finished" if phase == "ready" else "undone")


def _resume(root: Root, planned: Journal, phase: journal.Phase) -> None:
    try:
        (commit.finish if phase == "ready" else commit.rollback)(root.path, planned)
    except OSError as exc:
        hint = "make that possible and run `lora patch recover`"
        raise PatchError(f"cannot complete an interrupted `{planned.command}`: {_reason(exc)}", hint=hint) from exc
    journal.close(root.state, phase)


def _check_untouched(root: Path, planned: Journal) -> None:
    """Check that every file has the state from before or from after the transaction."""
    for entry in planned.entries:
        now = state_of(fs.snapshot(root, [entry.path])[entry.path])
        if now not in {entry.before, entry.after}:
            kept = f"; the file as it was is {shown(entry.old)}" if entry.old and now != ABSENT else ""
            raise PatchError(
                f"an interrupted `{planned.command}` cannot be completed: {shown(entry.path)} was changed since{kept}",
                hint="move your version of the file away and run `lora patch recover`",
            )


def _failed(exc: OSError) -> PatchError:
    return PatchError(f"cannot write: {_reason(exc)}", hint="everything is as it was before the command")


def _reason(exc: OSError) -> str:
    name = f": {shown(os.fsdecode(exc.filename))}" if exc.filename else ""
    return f"{exc.strerror}{name}"
