"""Apply and revert the patches of all upstreams: look up, plan in memory, write in one transaction."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora_training import files, git_process
from lora_training.patching import lockfile, series, transaction, tree_state
from lora_training.patching.lockfile import PRISTINE, Folders
from lora_training.patching.model import folders_of
from lora_training.patching.planning import Moved
from lora_training.patching.series import Target
from lora_training.patching.transaction import Recovered, Root, fs
from lora_training.patching.transaction.journal import Write
from lora_training.patching.tree_state import COPY, TreeState
from lora_training.workspace import Workspace

Done = Literal["applied", "reverted", "unchanged"]

_FOLDERS = "folders.json"
_EXCLUDED = "# pristine copies, kept by `lora patch`\n*.orig\n"


@dataclass(frozen=True)
class TreeResult:
    """The result for one tree: the patches that are applied now, the files written, the hunks found elsewhere."""

    name: str
    done: Done
    patches: tuple[str, ...]
    files: tuple[str, ...] = ()
    moved: tuple[Moved, ...] = ()


@dataclass(frozen=True)
class Result:
    """The result of a command, and the interrupted command that it completed first."""

    trees: tuple[TreeResult, ...]
    recovered: Recovered | None = None


@dataclass(frozen=True)
class _Plan:
    """The writes for one tree, with names relative to it."""

    state: TreeState
    result: TreeResult
    writes: tuple[Write, ...]


def apply(workspace: Workspace, targets: Sequence[Target]) -> Result:
    """Apply every patch, or none if one fails.

    Raises UpstreamError for a tree that is not at its pin, PatchError for drift, an edited patch or a foreign `.orig`.
    """
    root = transaction.root_of(workspace)
    with transaction.exclusive(root) as recovered:
        for target in targets:
            series.check_at_pin(target)
        states = _read_all(workspace, targets)
        for state in states:
            tree_state.check_no_drift(state)
        plans = [_plan_apply(state) for state in states]
        known = read_folders(root)
        for plan in plans:
            if plan.result.files:
                _exclude_copies(plan.state.target.root)
                _record_folders(plan, known)
        transaction.run(root, "apply", [*_all_writes(root, plans), write_folders(root, known)])
    return Result(tuple(plan.result for plan in plans), recovered)


def revert(workspace: Workspace, targets: Sequence[Target], keep_edits: Path | None = None) -> Result:
    """Restore every file that patches touch, byte for byte, or change nothing if one cannot be restored.

    Raises UpstreamError for a missing tree, and PatchError for local edits, unless `keep_edits` names a file: they are
    written there first, as a patch.
    """
    root = transaction.root_of(workspace)
    with transaction.exclusive(root) as recovered:
        for target in targets:
            series.check_there(target)
        states = _read_all(workspace, targets)
        edited = [tree_state.local_edits(state) for state in states]
        if keep_edits is None:
            for state, paths in zip(states, edited, strict=True):
                tree_state.check_no_drift(state)
                tree_state.refuse_edits(state, paths)
        elif any(edited):
            from lora_training.patching import authoring

            authoring.save_edits(states, edited, keep_edits)
        plans = [_plan_revert(state, paths) for state, paths in zip(states, edited, strict=True)]
        known = read_folders(root)
        folders: Folders = {}
        for plan in plans:
            folders |= _folders_after_revert(root, plan, known)
        transaction.run(root, "revert", [*_all_writes(root, plans), write_folders(root, known)], folders)
    return Result(tuple(plan.result for plan in plans), recovered)


def recover(workspace: Workspace) -> Recovered | None:
    """Complete an interrupted command, and do nothing else."""
    with transaction.exclusive(transaction.root_of(workspace)) as recovered:
        return recovered


def _read_all(workspace: Workspace, targets: Sequence[Target]) -> list[TreeState]:
    stacks = lockfile.read(workspace.patches)
    return [tree_state.read(target, tree_state.locked(target, stacks)) for target in targets]


def _plan_apply(state: TreeState) -> _Plan:
    patches = tuple(patch.name for patch in state.stack.patches)
    if tree_state.check_copies(state) and state.common == state.stack.last:
        tree_state.read_locked(state.target, state.stack)
        return _planned(state, "applied", (), patches)
    lockfile.check_copies_have_room(state.stack)
    base = tree_state.pristine(state)
    image, moved = tree_state.patched(state, base)
    writes = tree_state.writes(state.stack.pristine, state.image, base, image)
    return _planned(state, "applied", writes, patches, moved)


def _plan_revert(state: TreeState, edited: Sequence[str]) -> _Plan:
    tree_state.check_copies(state)
    outside = tree_state.outside_series(state, edited)
    if edited:
        from lora_training.patching import relock

        base = relock.pristine(state.target, state.stack, [*state.stack.pristine, *outside])
    else:
        base = tree_state.pristine(state)
    now = {**state.image, **fs.snapshot(state.target.root, outside)}
    return _planned(state, "reverted", tree_state.writes([*state.stack.pristine, *outside], now, base, base))


def _planned(
    state: TreeState, done: Done, writes: Sequence[Write], patches: tuple[str, ...] = (), moved: Sequence[Moved] = ()
) -> _Plan:
    paths = tuple(write.path for write in writes if write.is_change)
    result = TreeResult(state.target.name, done if paths else "unchanged", patches, paths, tuple(moved))
    return _Plan(state, result, tuple(writes))


def _all_writes(root: Root, plans: Sequence[_Plan]) -> list[Write]:
    return [write for plan in plans for write in transaction.below(root, plan.state.target.root, plan.writes)]


def _record_folders(plan: _Plan, known: dict[str, Folders]) -> None:
    """Add the folders that an apply makes or empties to `known`, as they were before the first patch."""
    name = plan.state.target.name
    before = lockfile.folders_before(plan.state.image, {w.path: w.after for w in plan.writes if w.is_change})
    is_pristine = all(PRISTINE in steps for steps in plan.state.steps.values())
    if is_pristine or name in known:
        # of a tree with some patches applied, the earlier record counts
        known[name] = before if is_pristine else before | known[name]


def _folders_after_revert(root: Root, plan: _Plan, known: dict[str, Folders]) -> Folders:
    """Return the folders that a revert makes, or removes if they are empty. Takes the tree's record out of `known`."""
    removed = [write.path for write in plan.writes if write.before and not write.after]
    before = known.pop(plan.state.target.name, None) if plan.result.files else {}
    if before is None:
        before = dict.fromkeys(folders_of(removed))
    else:
        # files outside the series are local edits, which the record knows nothing of
        edits = [path for path in removed if path.removesuffix(COPY) not in plan.state.stack.pristine]
        before = {**dict.fromkeys(folders_of(edits)), **before}
    prefix = os.path.relpath(plan.state.target.root, root.path)
    return {f"{prefix}/{path}": bits for path, bits in before.items()}


def read_folders(root: Root) -> dict[str, Folders]:
    """Return each upstream's folders as they were before its patches; none when the record cannot be read."""
    try:
        content = json.loads(files.read(root.state / _FOLDERS))
        return {str(name): lockfile.check_folders(known) for name, known in content.items()}
    except (AttributeError, OSError, RecursionError, ValueError):
        # users may delete the state folder: a revert then removes the folders that it empties
        return {}


def write_folders(root: Root, known: Mapping[str, Folders]) -> Write:
    """Return the write of that record."""
    return transaction.file_write(root, root.state / _FOLDERS, json.dumps(known, indent=1).encode() if known else None)


def _exclude_copies(root: Path) -> None:
    """Have git ignore `*.orig` in a tree, by its private exclude file; does nothing where there is no git."""
    if not (root / ".git").exists():
        return
    # a worktree shares the file with its repository
    path = root / git_process.run(root, "rev-parse", "--git-path", "info/exclude").removesuffix("\n")
    text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
    if "*.orig" not in text.splitlines():
        path.parent.mkdir(exist_ok=True)
        gap = "" if text.endswith("\n") or not text else "\n"
        fs.replace_file(path, f"{text}{gap}{_EXCLUDED}".encode("utf-8", "surrogateescape"))
