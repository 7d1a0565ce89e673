"""All of a set of file changes, or none: staged beside the tree, made with renames, finished or undone after a crash.

Nothing in the tree changes while new content is written. When all of it is on the disk, one rename of the journal
decides that the change shall be; what is left is renames, which need no space and can be repeated.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lora_training.errors import PatchError
from lora_training.patching import fs, journal, tree
from lora_training.patching.journal import Entry, Journal
from lora_training.patching.model import ABSENT, Node, state_of
from lora_training.patching.names import shown
from lora_training.patching.plan import parents

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Edit:
    """One file to change. `before` is what was read there. `same_as` names a file that already is what `after` says."""

    path: str
    before: Node | None
    after: Node | None
    same_as: str | None = None


@dataclass(frozen=True)
class Recovered:
    """An earlier command that was cut off, and what became of it."""

    command: str
    outcome: Literal["finished", "undone"]


def run(root: Path, state: Path, command: str, edits: Sequence[Edit]) -> None:
    """Make all `edits` below `root`, keeping the journal in `state`. The caller holds the lock.

    Raises PatchError when they cannot be made; everything is then as it was.
    """
    edits = [edit for edit in edits if state_of(edit.before) != state_of(edit.after)]
    if not edits:
        return
    plan = _plan(root, command, edits)
    try:
        journal.write(state, plan)
        _stage(root, plan, edits)
        journal.advance(state, "staging", "ready")
    except BaseException as exc:
        _discard(root, plan)
        if journal.pending(state):
            journal.close(state, "staging")
        if isinstance(exc, OSError):
            raise _failed(exc) from exc
        raise
    try:
        _finish(root, plan)
    except OSError as exc:
        journal.advance(state, "ready", "undo")
        _resume(root, state, plan, "undo")
        raise _failed(exc) from exc
    journal.close(state, "ready")


def recover(root: Path, state: Path) -> Recovered | None:
    """Finish or undo what an earlier command left, if anything. The caller holds the lock.

    Raises PatchError when a file was changed since by someone else; nothing of theirs is touched.
    """
    phase = journal.pending(state)
    fs.remove(state / "journal.draft")
    if phase is None:
        return None
    plan = journal.read(state, phase)
    if phase == "staging":
        _discard(root, plan)
    else:
        _check_untouched(root, plan)
        _resume(root, state, plan, phase)
        return Recovered(plan.command, "finished" if phase == "ready" else "undone")
    journal.close(state, phase)
    return Recovered(plan.command, "undone")


def _resume(root: Path, state: Path, plan: Journal, phase: journal.Phase) -> None:
    try:
        (_finish if phase == "ready" else _undo)(root, plan)
    except OSError as exc:
        hint = "make that possible and run `lora patch recover`"
        raise PatchError(f"cannot complete an interrupted `{plan.command}`: {_said(exc)}", hint=hint) from exc
    journal.close(state, phase)


def _plan(root: Path, command: str, edits: Sequence[Edit]) -> Journal:
    token = os.urandom(4).hex()
    made, dropped = _folders(root, edits)
    entries = []
    for number, edit in enumerate(edits):
        beside = _beside(root, edit.path, dropped)
        new = f"{beside}.lora-{token}-{number}.new" if edit.after else ""
        old = f"{beside}.lora-{token}-{number}.old" if edit.before and not edit.before.is_folder else ""
        entries.append(Entry(edit.path, state_of(edit.before), state_of(edit.after), new, old))
    return Journal(command, tuple(entries), made, dropped)


def _beside(root: Path, path: str, dropped: Sequence[str]) -> str:
    """The nearest folder above that is there and stays, with a slash: one file system, and proof that we may write."""
    for parent in reversed(parents(path)):
        if parent not in dropped and fs.is_folder(root / parent):
            return parent + "/"
    return ""


def _folders(root: Path, edits: Sequence[Edit]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The folders that new files need, outermost first, and those that removals may leave empty, innermost first."""
    needed = {parent for edit in edits if edit.after for parent in parents(edit.path)}
    left = {parent for edit in edits if edit.before and not edit.after for parent in parents(edit.path)} - needed
    left |= {edit.path for edit in edits if edit.before and edit.before.is_folder}
    made = sorted(folder for folder in needed if not fs.is_folder(root / folder))
    return tuple(made), tuple(sorted(left, reverse=True))


# -- before the decision


def _stage(root: Path, plan: Journal, edits: Sequence[Edit]) -> None:
    for entry, edit in zip(plan.entries, edits, strict=True):
        _check_unchanged(root, edit)
        if entry.old:
            _keep(root / entry.path, root / entry.old, edit.before)
        if edit.after:
            _put(root, entry, edit, edit.after)
    for folder in {(root / name).parent for entry in plan.entries for name in (entry.new, entry.old) if name}:
        fs.sync_folder(folder)


def _check_unchanged(root: Path, edit: Edit) -> None:
    full = root / edit.path
    if edit.before is None or edit.before.is_folder:
        changed = edit.before is None and os.path.lexists(full)
    else:
        changed = edit.before.stamp is not None and tree.stamp_of(os.lstat(full)) != edit.before.stamp
    if changed:
        raise PatchError(f"{shown(edit.path)} changed while this command ran", hint="nothing was written; run it again")


def _keep(path: Path, old: Path, node: Node | None) -> None:
    """A second name for the file as it is, for an undo; a copy where there are no hard links."""
    try:
        fs.same_again(path, old)
    except OSError:
        if node is None:  # pragma: no cover - only files that were read are kept
            raise
        fs.write_new(old, node)


def _put(root: Path, entry: Entry, edit: Edit, after: Node) -> None:
    if edit.same_as is not None:
        with contextlib.suppress(OSError):
            fs.same_again(root / edit.same_as, root / entry.new)
            return
    fs.write_new(root / entry.new, after)


def _discard(root: Path, plan: Journal) -> None:
    for entry in plan.entries:
        _drop_waiting(root, entry)


def _drop_waiting(root: Path, entry: Entry) -> None:
    for name in (entry.new, entry.old):
        if name:
            fs.remove(root / name)


# -- after it


def _finish(root: Path, plan: Journal) -> None:
    """Make the change. Can be repeated from any point."""
    for entry in plan.entries:
        if journal.is_removal(entry) and not fs.is_folder(root / entry.path):
            fs.remove(root / entry.path)
    for folder in plan.dropped:
        fs.remove_folder(root / folder)
    for folder in plan.made:
        _make_folder(root / folder)
    for entry in plan.entries:
        if entry.new and os.path.lexists(root / entry.new):
            _move(root / entry.new, root / entry.path)
    _settle(root, plan)


def _undo(root: Path, plan: Journal) -> None:
    """Take the change back. Can be repeated from any point."""
    for entry in plan.entries:
        if journal.is_creation(entry) and not os.path.lexists(root / entry.new):
            fs.remove(root / entry.path)
    for folder in reversed(plan.made):
        fs.remove_folder(root / folder)
    for folder in reversed(plan.dropped):
        _make_folder(root / folder)
    for entry in plan.entries:
        if entry.old and os.path.lexists(root / entry.old):
            _move(root / entry.old, root / entry.path)
    _settle(root, plan)


def _make_folder(path: Path) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)


def _move(source: Path, target: Path) -> None:
    os.rename(source, target)
    # two names of one file: rename leaves both and reports success
    fs.remove(source)


def _settle(root: Path, plan: Journal) -> None:
    """Have the new names on the disk before the journal goes, and take away what waited for the other outcome."""
    for folder in {(root / entry.path).parent for entry in plan.entries}:
        if fs.is_folder(folder):
            fs.sync_folder(folder)
    for entry in plan.entries:
        _drop_waiting(root, entry)


def _check_untouched(root: Path, plan: Journal) -> None:
    """After a crash: every file must be as the transaction found it or as it would leave it."""
    for entry in plan.entries:
        if (now := state_of(tree.read(root, entry.path))) not in {entry.before, entry.after}:
            kept = f"; the file as it was is {shown(entry.old)}" if entry.old and now != ABSENT else ""
            raise PatchError(
                f"an interrupted `{plan.command}` cannot be completed: {shown(entry.path)} was changed since{kept}",
                hint="move your version of the file away and run `lora patch recover`",
            )


def _failed(exc: OSError) -> PatchError:
    return PatchError(f"cannot write: {_said(exc)}", hint="everything is as it was before the command")


def _said(exc: OSError) -> str:
    name = f": {shown(os.fsdecode(exc.filename))}" if exc.filename else ""
    return f"{exc.strerror}{name}"
