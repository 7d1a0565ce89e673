"""`lora patch lock`: compute the states of every series from pristine files again, and write them to the lock."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_training.errors import PatchError
from lora_training.patching import conditions, lockfile, names, planning, series, transaction, tree_state
from lora_training.patching.lockfile import PRISTINE, LockedPatch, Stack
from lora_training.patching.model import ABSENT, Image, Node, state_of
from lora_training.patching.names import shown
from lora_training.patching.series import SeriesPatch, Target
from lora_training.patching.transaction import Recovered, fs
from lora_training.patching.tree_state import COPY
from lora_training.workspace import Workspace


@dataclass(frozen=True)
class Locked:
    """The changes of the lock, one line each, and the hunks that were found at another line than they state.

    `held` has the added patches whose changes are in the tree already, as `UPSTREAM/NAME`.
    """

    changes: tuple[str, ...]
    moved: tuple[planning.Moved, ...]
    held: tuple[str, ...] = ()
    recovered: Recovered | None = None


def lock(workspace: Workspace, targets: Sequence[Target]) -> Locked:
    """Write `patches.lock` from the patch files and the pristine trees.

    Raises PatchError for a patch that is malformed, incomplete or does not fit, and while a patch is applied that was
    edited since: the new lock would not know the tree's files, so it must be reverted first.
    """
    with transaction.exclusive(transaction.root_of(workspace)) as recovered:
        old = lockfile.read(workspace.patches)
        new: dict[str, Stack] = {}
        moved: list[planning.Moved] = []
        for target in targets:
            if series.names(target.patches):
                with _removal_offered(target, old.get(target.name)):
                    new[target.name] = stack_of(target, old.get(target.name), series.read(target.patches), moved)
            _check_recognised(target, old.get(target.name), new.get(target.name))
        held = [each for target in targets if target.name in new for each in _held(target, old, new[target.name])]
        changes = tuple(_differences(old, new))
        path = workspace.patches / lockfile.LOCK
        if changes or not path.exists():
            fs.replace_file(path, lockfile.render(new).encode())
    return Locked(changes, tuple(moved), tuple(held), recovered)


@contextlib.contextmanager
def _removal_offered(target: Target, old: Stack | None) -> Iterator[None]:
    """Add to the hint about a patch that was never locked how to take it out of the series."""
    try:
        yield
    except PatchError as exc:
        name = series.blamed(target.patches, exc)
        if name and name not in [patch.name for patch in (old.patches if old else ())]:
            command = f"lora patch remove {target.name}/{name}"
            exc.hint = f"{exc.hint}\nor take it and its edits out (the file is kept): `{command}`"
        raise


def _held(target: Target, old: Mapping[str, Stack], new: Stack) -> Iterator[str]:
    known = [patch.name for patch in old[target.name].patches] if target.name in old else []
    if tree_state.read(target, new).common == new.last:
        yield from (f"{target.name}/{patch.name}" for patch in new.patches if patch.name not in known)


def stack_of(
    target: Target, old: Stack | None, items: Sequence[SeriesPatch], moved: list[planning.Moved] | None = None
) -> Stack:
    """Compute the states of a target's series from its patches; add the hunks found elsewhere to `moved`."""
    series.check_at_pin(target)
    for item in items:
        conditions.parse(item.name, item.fields["Removal-Condition"])
    touched = [path for item in items for path in item.patch.paths]
    base = image = pristine(target, old, touched)
    locked = []
    for item in items:
        outcome = planning.apply(item.patch, image)
        image = outcome.image
        if moved is not None:
            moved += outcome.moved
        files = {path: state_of(node) for path, node in outcome.written.items()}
        locked.append(LockedPatch(item.name, item.patch.sha256, files))
    paths = sorted(set(touched))
    for path in paths:
        if path + COPY in paths:
            what = f"{path + COPY} is touched by a patch, but that is where {path} is kept"
            raise PatchError(what, hint="give that file another name in the patch")
    stack = Stack(target.pin, {path: state_of(base.get(path)) for path in paths}, tuple(locked))
    lockfile.check_copies_have_room(stack)
    names.check_links(paths, image, target.root)
    return stack


def pristine(target: Target, old: Stack | None, paths: Iterable[str]) -> Image:
    """Return files as they are at the pin: from git, or proven by the old lock or a manifest.

    Raises PatchError for a file that is not pristine and has no pristine copy beside it. In a folder that is no
    repository and has no manifest, files that are not in the lock count as pristine.
    """
    wanted = list(dict.fromkeys(paths))
    copies = [path + COPY for path in wanted]
    image = fs.snapshot(target.root, [*wanted, *copies])
    has_git = (target.root / ".git").exists()
    known = old.pristine if old is not None and old.commit == target.pin else {}
    manifest = target.manifest() if target.manifest and not has_git and set(wanted) - set(known) else None
    for path in wanted:
        if has_git:
            image[path] = _at_commit(target.root, target.pin, path, image[path])
        elif path in known:
            image[path] = _proven(target, path, image, known[path])
        elif manifest is not None:
            image[path] = _proven(target, path, image, manifest.get(path, ABSENT))
    return {path: node for path, node in image.items() if path not in copies}


def _at_commit(root: Path, commit: str, path: str, now: Node | None) -> Node | None:
    from lora_training import repositories

    with repositories.opened(root) as repo:
        try:
            item = repo.commit(commit).tree.join(path)
        except KeyError:
            return now if now is not None and now.is_folder else None
        if item.type != "blob":
            return now
        return Node(item.mode, item.data_stream.read(), None if now is None else now.permissions)


def _proven(target: Target, path: str, image: Mapping[str, Node | None], wanted: str) -> Node | None:
    """Return the file or its copy, whichever has the wanted state or sha256."""
    for node in (image[path], image[path + COPY], None):
        state = state_of(node)
        if wanted in {state, state.rpartition(" ")[2]}:
            return node
    raise PatchError(
        f"{target.name}: {shown(path)} was edited, and its pristine content is not at hand",
        hint=f"put the pristine file at {shown(path + COPY)}, or bring a pristine tree:\n"
        f"`lora upstream sync {target.name} --discard-edits`, then `lora patch apply`",
    )


def _check_recognised(target: Target, old: Stack | None, new: Stack | None) -> None:
    """Check that the new lock knows the files of a patched tree, which would otherwise count as drifted."""
    if old is None or not old.patches or not target.root.is_dir():
        return
    now = tree_state.read(target, old)
    for path in [path for path, steps in now.steps.items() if steps and PRISTINE not in steps]:
        state = state_of(now.image[path])
        if new is None or path not in new.pristine or not new.steps_of(path, state):
            raise PatchError(
                f"{target.name}: {shown(path)} has the patches in as they were before they were edited",
                hint="run `lora patch revert`, then `lora patch lock`, then `lora patch apply`",
            )


def _differences(old: Mapping[str, Stack], new: Mapping[str, Stack]) -> Iterable[str]:
    empty = Stack("", {}, ())
    for name in sorted({*old, *new}):
        before, after = old.get(name, empty), new.get(name, empty)
        if before.commit != after.commit:
            yield f"{name}: commit {before.commit or 'none'} -> {after.commit or 'none'}"
        yield from _patch_differences(name, before, after)
        for path in sorted({*before.pristine, *after.pristine}):
            if before.pristine.get(path) != after.pristine.get(path):
                yield f"{name}: {shown(path)} {_pristine_difference(before, after, path)}"


def _pristine_difference(before: Stack, after: Stack, path: str) -> str:
    if path not in before.pristine:
        return f"is now in the lock, its pristine state: {after.pristine[path]}"
    if path not in after.pristine:
        return "is no longer in the lock: no patch touches it"
    return f"has another pristine state: {before.pristine[path]} -> {after.pristine[path]}"


def _patch_differences(name: str, before: Stack, after: Stack) -> Iterable[str]:
    olds = {patch.name: patch for patch in before.patches}
    news = {patch.name: patch for patch in after.patches}
    yield from (f"{name}: {patch} removed" for patch in olds if patch not in news)
    yield from (f"{name}: {patch} added" for patch in news if patch not in olds)
    for patch in (patch for patch in news if patch in olds and news[patch] != olds[patch]):
        edited = news[patch].sha256 != olds[patch].sha256
        yield f"{name}: {patch} {'edited' if edited else 'has other results'}"
    common = [patch for patch in olds if patch in news]
    if common != [patch for patch in news if patch in olds]:
        yield f"{name}: the order of the series changed"
