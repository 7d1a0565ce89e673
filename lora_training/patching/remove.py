"""`lora patch remove`: take one patch out of its tree, its series, the lock and PATCHES.md, in one transaction."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_training.errors import PatchError
from lora_training.patching import docs, engine, lockfile, planning, relock, series, transaction, tree_state
from lora_training.patching.lockfile import Folders, Stack
from lora_training.patching.model import Image, folders_of, state_of
from lora_training.patching.names import shown
from lora_training.patching.series import Target
from lora_training.patching.transaction import Recovered, fs
from lora_training.patching.transaction.journal import Write
from lora_training.patching.tree_state import COPY
from lora_training.workspace import Workspace

_KEPT = "removed"


@dataclass(frozen=True)
class Removed:
    """A removed patch: the file it was moved to, None if it had none, and the written files of the tree."""

    patch: str
    kept: Path | None
    files: tuple[str, ...]
    recovered: Recovered | None = None


def remove(workspace: Workspace, targets: Sequence[Target], target: Target, name: str) -> Removed:
    """Take the patch `name` out of `target`, one of all `targets`; its file is kept in the checkout's state folder.

    The patch may be locked or not, and the tree at any step. One that cannot be read or does not fit goes, too, unless
    it is applied. Raises PatchError when the tree has edits of those files, and when a later patch needs this one.
    """
    root = transaction.root_of(workspace)
    with transaction.exclusive(root) as recovered:
        series.check_at_pin(target)
        stacks = lockfile.read(workspace.patches)
        tree = _plan(target, stacks.get(target.name), name)
        known = engine.read_folders(root)
        prefix = os.path.relpath(target.root, root.path)
        folders = {f"{prefix}/{path}": bits for path, bits in _folders(tree, known.get(target.name, {})).items()}
        # removed if it is empty
        folders[os.path.relpath(target.patches, root.path)] = None
        path = target.patches / name
        kept = root.state / _KEPT / target.name / name if path.is_file() else None
        contents = {target.patches / series.SERIES: _listed(target, name)}
        if kept:
            contents |= {path: None, kept: path.read_bytes()}
        if _is_locked(stacks.get(target.name), name):
            contents[workspace.patches / lockfile.LOCK] = _lock(stacks, target, path)
        # while another patch has an incomplete header, there is no document to write
        with contextlib.suppress(PatchError):
            contents[workspace.root / docs.DOCUMENT] = docs.render(workspace, targets, path).encode()
        writes = transaction.below(root, target.root, tree)
        writes += [transaction.file_write(root, path, data) for path, data in contents.items()]
        transaction.run(root, "remove", writes, folders)
    return Removed(name, kept, tuple(write.path for write in tree if write.is_change), recovered)


def _plan(target: Target, stack: Stack | None, name: str) -> list[Write]:
    """Return the writes in the tree: its files without the patch, and their pristine copies."""
    try:
        patches = [draft.patch for draft in series.read_drafts(target.patches)]
        paths = list(dict.fromkeys(path for patch in patches for path in patch.paths))
        base = relock.pristine(target, stack, paths)
        images = planning.steps(patches, base)
    except PatchError as exc:
        if series.blamed(target.patches, exc) != name:
            raise
        if not _is_applied(target, stack, name):
            return []
        exc.hint = f"restore {target.patches / name} from git, or run `lora patch revert` first"
        raise
    now = fs.snapshot(target.root, [*paths, *(path + COPY for path in paths)])
    step = _step(target, images, now)
    try:
        planning.steps([patch for patch in patches if patch.name != name], base)
    except PatchError as exc:
        hint = "a later patch needs it: remove that one first, or rewrite it"
        raise PatchError(f"{name} cannot be removed: {exc.message}", hint=hint) from exc
    after = planning.steps([patch for patch in patches[:step] if patch.name != name], base)[-1]
    return tree_state.writes(paths, now, base, after)


def _is_locked(stack: Stack | None, name: str) -> bool:
    return stack is not None and name in [patch.name for patch in stack.patches]


def _is_applied(target: Target, stack: Stack | None, name: str) -> bool:
    if stack is None or not _is_locked(stack, name):
        return False
    step = tree_state.read(target, stack).common
    return step is None or name in [patch.name for patch in stack.patches[:step]]


def _step(target: Target, images: Sequence[Image], now: Image) -> int:
    """Return the last step of the series that the tree is at. Raises PatchError when it is at none."""
    edited = [[path for path in images[0] if state_of(now[path]) != state_of(image.get(path))] for image in images]
    if [] not in edited:
        raise PatchError(
            f"{target.name}: {shown(edited[-1][0])} is at no step of the series",
            hint="run `lora patch apply`, or `lora patch revert --keep-edits FILE` where it was edited",
        )
    return max(step for step, paths in enumerate(edited) if not paths)


def _folders(writes: Iterable[Write], before: Mapping[str, int | None]) -> Folders:
    """Return the folders to make, as they were `before` the patches, and those to remove if they are empty."""
    needed = folders_of(write.path for write in writes if write.after)
    found: Folders = dict.fromkeys(folders_of(write.path for write in writes if not write.after) - needed)
    return found | {path: bits for path, bits in before.items() if path in needed and bits is not None}


def _listed(target: Target, name: str) -> bytes | None:
    """Return the series file without the patch; None when no line is left."""
    lines = (target.patches / series.SERIES).read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if line.split("#")[0].split()[:1] != [name]).encode() or None


def _lock(stacks: dict[str, Stack], target: Target, removed: Path) -> bytes:
    items = series.read(target.patches, removed)
    old = stacks.pop(target.name, None)
    if items:
        stacks[target.name] = relock.stack_of(target, old, items)
    return lockfile.render(stacks).encode()
