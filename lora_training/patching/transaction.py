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
    from collections.abc import Container, Sequence
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
    return Journal(command, tuple(entries), made, dropped)


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


def _folders(root: Path, edits: Sequence[Edit]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The folders that new files need, outermost first, and those that removals may leave empty, innermost first."""
    needed = {parent for edit in edits if edit.after for parent in parents(edit.path)}
    left = {parent for edit in edits if edit.before and not edit.after for parent in parents(edit.path)} - needed
    left |= {edit.path for edit in edits if edit.before and edit.before.is_folder}
    made = sorted(folder for folder in needed if not fs.is_folder(f"{root}/{folder}"))
    return tuple(made), tuple(sorted(left, reverse=True))


# -- before the decision


def _stage(root: Path, plan: Journal, edits: Sequence[Edit]) -> None:
    base = os.fspath(root)
    kept = {entry.old for entry in plan.entries}
    pairs = list(zip(plan.entries, edits, strict=True))
    fs.for_each(pairs, lambda pair: _stage_one(base, *pair, kept))
    names = [name for entry in plan.entries for name in (entry.new, entry.old) if name]
    fs.for_each(list({os.path.dirname(f"{base}/{name}") for name in names}), fs.sync_folder)


def _stage_one(base: str, entry: Entry, edit: Edit, kept: Container[str]) -> None:
    _check_unchanged(base, edit)
    if entry.old:
        _keep(f"{base}/{entry.path}", f"{base}/{entry.old}", edit.before)
    # a file that is kept under its new name is there already
    if edit.after is not None and entry.new and entry.new not in kept:
        _put(f"{base}/{entry.new}", edit.after, None if edit.same_as is None else f"{base}/{edit.same_as}")


def _check_unchanged(base: str, edit: Edit) -> None:
    full = f"{base}/{edit.path}"
    if edit.before is None or edit.before.is_folder:
        changed = edit.before is None and os.path.lexists(full)
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


def _discard(root: Path, plan: Journal) -> None:
    for entry in plan.entries:
        for name in (entry.new, entry.old):
            if name:
                fs.remove(f"{root}/{name}")


# -- after it


def _finish(root: Path, plan: Journal) -> None:
    """Make the change. Can be repeated from any point."""
    moved = {entry.moved_from for entry in plan.entries}
    for entry in plan.entries:
        if journal.is_removal(entry) and entry.path not in moved and not fs.is_folder(f"{root}/{entry.path}"):
            fs.remove(f"{root}/{entry.path}")
    for folder in plan.dropped:
        fs.remove_folder(f"{root}/{folder}")
    for folder in plan.made:
        fs.make_folder(f"{root}/{folder}")
    for entry in plan.entries:
        if source := entry.new or entry.moved_from:
            fs.move(f"{root}/{source}", f"{root}/{entry.path}")
    _settle(root, plan)
    for folder in plan.dropped:
        fs.remove_folder(f"{root}/{folder}")


def _undo(root: Path, plan: Journal) -> None:
    """Take the change back. Can be repeated from any point."""
    kept = {entry.old for entry in plan.entries}
    for entry in plan.entries:
        if not journal.is_creation(entry) or not entry.new or os.path.lexists(f"{root}/{entry.new}"):
            continue
        if entry.new in kept:
            fs.move(f"{root}/{entry.path}", f"{root}/{entry.new}")
        else:
            fs.remove(f"{root}/{entry.path}")
    for folder in reversed(plan.made):
        fs.remove_folder(f"{root}/{folder}")
    for folder in reversed(plan.dropped):
        fs.make_folder(f"{root}/{folder}")
    for entry in plan.entries:
        if entry.moved_from and not os.path.lexists(f"{root}/{entry.moved_from}"):
            fs.move(f"{root}/{entry.path}", f"{root}/{entry.moved_from}")
        if entry.old:
            fs.move(f"{root}/{entry.old}", f"{root}/{entry.path}")
    _settle(root, plan)


def _settle(root: Path, plan: Journal) -> None:
    """Have the new names on the disk before the journal goes, and take away what waited for the other outcome."""
    folders = {os.path.dirname(f"{root}/{entry.path}") for entry in plan.entries}
    fs.for_each([folder for folder in folders if fs.is_folder(folder)], fs.sync_folder)
    _discard(root, plan)


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
