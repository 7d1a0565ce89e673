"""All of a set of file changes, or none: staged beside the tree, made with renames, finished or undone after a crash.

Nothing in the tree changes while new content is written. When all of it is on the disk, one rename of the journal
decides that the change shall be; what is left is renames, which need no space and can be repeated. (The exception: a
folder that takes a file's name, or a file a folder's, is made or made again then. Should the disk fill up in that very
moment, the journal stays, and the next command brings it to its end.)

What is on the disk when, as far as `fsync` of files and folders goes: the journal before the first new file is made;
each new file, and every name that waits, before the decision; the decision before the first rename; all renames, and
the folders that came and went, before the journal goes. What waits only for an undo goes before the journal too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lora_training.errors import PatchError
from lora_training.patching import exchange, fs, journal, layout, staging, tree
from lora_training.patching.model import ABSENT, state_of
from lora_training.patching.names import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lora_training.patching.edit import Edit
    from lora_training.patching.journal import Journal


@dataclass(frozen=True)
class Recovered:
    """An earlier command that was cut off, and what became of it."""

    command: str
    outcome: Literal["finished", "undone"]


def run(
    root: Path, state: Path, command: str, edits: Sequence[Edit], folders: Mapping[str, int | None] | None = None
) -> None:
    """Make all `edits` below `root`, keeping the journal in `state`. The caller holds the lock.

    `folders` are those to make, with their permission bits, or to take away (None); without it those that get empty go.
    Raises PatchError when they cannot be made; everything is then as it was.
    """
    edits = [edit for edit in edits if state_of(edit.before) != state_of(edit.after)]
    if not edits:
        return
    plan = layout.plan(root, command, edits, folders)
    layout.check_inside(root, plan)
    try:
        journal.write(state, plan)
        staging.stage(root, plan, edits)
        journal.advance(state, "staging", "ready")
    except BaseException as exc:
        staging.discard(root, plan)
        if journal.pending(state):
            journal.close(state, "staging")
        if isinstance(exc, OSError):
            raise _failed(exc) from exc
        raise
    try:
        exchange.finish(root, plan)
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
    # a folder from elsewhere may bring a journal of its own
    layout.check_inside(root, plan)
    if phase == "staging":
        staging.discard(root, plan)
    else:
        _check_untouched(root, plan)
        _resume(root, state, plan, phase)
        return Recovered(plan.command, "finished" if phase == "ready" else "undone")
    journal.close(state, phase)
    return Recovered(plan.command, "undone")


def _resume(root: Path, state: Path, plan: Journal, phase: journal.Phase) -> None:
    try:
        (exchange.finish if phase == "ready" else exchange.undo)(root, plan)
    except OSError as exc:
        hint = "make that possible and run `lora patch recover`"
        raise PatchError(f"cannot complete an interrupted `{plan.command}`: {_said(exc)}", hint=hint) from exc
    journal.close(state, phase)


def _check_untouched(root: Path, plan: Journal) -> None:
    """After a crash: every file must be as the transaction found it or as it would leave it."""
    for entry in plan.entries:
        now = state_of(tree.snapshot(root, [entry.path])[entry.path])
        if now not in {entry.before, entry.after}:
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
