"""Apply and revert over all upstreams: look up, plan in memory, write in one transaction."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from lora_training.errors import PatchError
from lora_training.patching import (
    edits,
    exclude,
    folders,
    lockfile,
    plan,
    series,
    site,
    stack,
    standing,
    transaction,
    tree,
)
from lora_training.patching.edit import Edit
from lora_training.patching.model import Node, state_of
from lora_training.patching.stack import PRISTINE
from lora_training.patching.standing import COPY, Standing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lora_training.patching.series import Target
    from lora_training.patching.transaction import Recovered
    from lora_training.workspace import Workspace

Done = Literal["applied", "reverted", "unchanged"]


@dataclass(frozen=True)
class TreeResult:
    """What a command did to one tree: the patches that are in now, the files written, the hunks found elsewhere."""

    name: str
    done: Done
    patches: tuple[str, ...]
    files: tuple[str, ...] = ()
    moved: tuple[plan.Moved, ...] = ()


@dataclass(frozen=True)
class Result:
    """What a command did, and the interrupted one that it brought to its end first."""

    trees: tuple[TreeResult, ...]
    recovered: Recovered | None = None


@dataclass(frozen=True)
class _Plan:
    result: TreeResult
    edits: tuple[Edit, ...]


def apply(workspace: Workspace, targets: Sequence[Target]) -> Result:
    """Bring every tree to the last step of its series, or change nothing at all.

    Raises UpstreamError for a tree that is not at its pin, PatchError for drift, an edited patch or a foreign `.orig`.
    """
    here = site.of_workspace(workspace)
    with site.alone(here) as recovered:
        for target in targets:
            series.check_at_pin(target)
        found = _stand_all(workspace, targets)
        for item in found:
            standing.check_no_drift(item)
        plans = [_plan_apply(item) for item in found]
        for target, planned in zip(targets, plans, strict=True):
            if planned.edits:
                exclude.copies(target.root)
        known = _remembered(folders.recall(here), found, plans)
        transaction.run(here.root, here.state, "apply", [*_whole(here, targets, plans), folders.remember(here, known)])
    return Result(tuple(planned.result for planned in plans), recovered)


def revert(workspace: Workspace, targets: Sequence[Target], keep_edits: Path | None = None) -> Result:
    """Bring every tree back to pristine, byte for byte, or change nothing at all.

    Raises PatchError for edits, unless `keep_edits` names a file: they are written there first, as a patch.
    """
    here = site.of_workspace(workspace)
    with site.alone(here) as recovered:
        found = _stand_all(workspace, targets)
        edited = [edits.find(item) for item in found]
        if keep_edits is None:
            _refuse(found, edited)
        elif any(edited):
            from lora_training.patching import keeping

            keeping.save(found, edited, keep_edits)
        plans = [_plan_revert(item, paths) for item, paths in zip(found, edited, strict=True)]
        known = folders.recall(here)
        wanted = _wanted(here, known, found, plans)
        whole = [*_whole(here, targets, plans), folders.remember(here, known)]
        transaction.run(here.root, here.state, "revert", whole, wanted)
    return Result(tuple(planned.result for planned in plans), recovered)


def recover(workspace: Workspace) -> Recovered | None:
    """Only bring an interrupted command to its end."""
    with site.alone(site.of_workspace(workspace)) as recovered:
        return recovered


def _stand_all(workspace: Workspace, targets: Sequence[Target]) -> list[Standing]:
    stacks = lockfile.read(workspace.patches)
    return [standing.stand(target, standing.locked(target, stacks)) for target in targets]


def _refuse(found: Sequence[Standing], edited: Sequence[Sequence[str]]) -> None:
    for item, paths in zip(found, edited, strict=True):
        standing.check_no_drift(item)
        edits.refuse(item, paths)


def _remembered(
    known: Mapping[str, folders.Folders], found: Sequence[Standing], plans: Sequence[_Plan]
) -> dict[str, folders.Folders]:
    """`known`, and the folders that an apply makes or empties; what is known of a partly patched tree came first."""
    after = dict(known)
    for item, planned in zip(found, plans, strict=True):
        name = item.target.name
        here = folders.before(item.image, {edit.path: edit.after for edit in planned.edits if _is_change(edit)})
        if planned.result.files and all(PRISTINE in steps for steps in item.position.steps.values()):
            after[name] = here
        elif name in known:
            after[name] = here | known[name]
    return after


def _wanted(
    here: site.Site, known: dict[str, folders.Folders], found: Sequence[Standing], plans: Sequence[_Plan]
) -> folders.Folders:
    """The folders that a revert makes, or takes away if it leaves them empty. Those of its trees go from `known`."""
    wanted: folders.Folders = {}
    for item, planned in zip(found, plans, strict=True):
        removed = [edit.path for edit in planned.edits if edit.before and not edit.after]
        there = known.pop(item.target.name, None) if planned.result.files else {}
        prefix = os.path.relpath(item.target.root, here.root)
        wanted |= {f"{prefix}/{path}": bits for path, bits in _or_emptied(there, removed).items()}
    return wanted


def _or_emptied(there: folders.Folders | None, removed: Sequence[str]) -> folders.Folders:
    return dict.fromkeys(plan.folders_of(removed)) if there is None else there


def _whole(here: site.Site, targets: Sequence[Target], plans: Sequence[_Plan]) -> list[Edit]:
    """The edits of all trees, from the site's root."""
    prefixes = [os.path.relpath(target.root, here.root) for target in targets]
    return [_below(prefix, edit) for prefix, planned in zip(prefixes, plans, strict=True) for edit in planned.edits]


def _below(prefix: str, edit: Edit) -> Edit:
    same_as = None if edit.same_as is None else f"{prefix}/{edit.same_as}"
    return replace(edit, path=f"{prefix}/{edit.path}", same_as=same_as)


def _plan_apply(item: Standing) -> _Plan:
    names = tuple(patch.name for patch in item.stack.patches)
    if item.position.common == item.stack.last and _has_copies(item):
        problems = standing.lock_problems(item.target, item.stack, series.read_bytes(item.target.patches))
        if problems:
            raise PatchError("; ".join(problems), hint="look at the change, then run `lora patch lock`")
        return _Plan(TreeResult(item.target.name, "unchanged", names), ())
    stack.check_copies_have_room(item.stack)
    base = standing.pristine(item)
    image, moved = standing.final(item, base)
    found = [Edit(path, item.image[path], image.get(path)) for path in item.stack.paths]
    found += [edit for path in item.stack.paths if (edit := _copy_edit(item, path, base.get(path)))]
    files = _files(found)
    done: Done = "applied" if files else "unchanged"
    return _Plan(TreeResult(item.target.name, done, names, files, tuple(moved)), tuple(found))


def _has_copies(item: Standing) -> bool:
    kept = [path for path in item.stack.paths if stack.is_kept(item.stack, path)]
    return all(standing.copy_of(item, path) is not None for path in kept)


def _copy_edit(item: Standing, path: str, base: Node | None) -> Edit | None:
    if not stack.is_kept(item.stack, path) or standing.copy_of(item, path) is not None:
        return None
    # the pristine file itself becomes the copy, times and all, unless it is gone already
    itself = path if state_of(item.image[path]) == item.stack.state(path, PRISTINE) else None
    return Edit(path + COPY, None, base, same_as=itself)


def _plan_revert(item: Standing, edited: Sequence[str]) -> _Plan:
    outside = edits.outside(item, edited)
    if edited:
        from lora_training.patching import relock

        base = relock.pristine(item.target, item.stack, [*item.stack.paths, *outside])
    else:
        base = standing.pristine(item)
    now = tree.snapshot(item.target.root, outside)
    found = [Edit(path, now[path], base.get(path)) for path in outside]
    for path in item.stack.paths:
        copy = standing.copy_of(item, path)
        found.append(Edit(path, item.image[path], base.get(path), same_as=path + COPY if copy else None))
        if copy is not None:
            found.append(Edit(path + COPY, copy, None))
    files = _files(found)
    return _Plan(TreeResult(item.target.name, "reverted" if files else "unchanged", (), files), tuple(found))


def _files(edits: Sequence[Edit]) -> tuple[str, ...]:
    return tuple(edit.path for edit in edits if _is_change(edit))


def _is_change(edit: Edit) -> bool:
    return state_of(edit.before) != state_of(edit.after)
