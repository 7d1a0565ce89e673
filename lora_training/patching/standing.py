"""Where an upstream's tree stands: what is on the disk, looked up in the lock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_training.errors import PatchError
from lora_training.patching import edits, links, lockfile, plan, series, stack, tree
from lora_training.patching.model import Node, sha256, state_of
from lora_training.patching.names import shown
from lora_training.patching.parse import parse
from lora_training.patching.stack import PRISTINE, Position, Stack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lora_training.patching.model import Patch
    from lora_training.patching.series import Target

COPY = ".orig"
_LOCK_HINT = "look at the change, then run `lora patch lock`"


@dataclass(frozen=True)
class Standing:
    """A target with its locked stack, what was read of its tree (pristine copies too), and where that stands."""

    target: Target
    stack: Stack
    image: plan.Image
    position: Position


def locked(target: Target, stacks: Mapping[str, Stack]) -> Stack:
    """The stack that was locked for a target; an empty one for a target without patches.

    Raises PatchError when the series has patches and the lock knows nothing of them.
    """
    if target.name in stacks:
        return stacks[target.name]
    if series.names(target.patches):
        hint = "run `lora patch lock`"
        raise PatchError(f"{lockfile.LOCK} says nothing about the patches of {target.name}", hint=hint)
    return Stack(target.pin, {}, ())


def stand(target: Target, stack_: Stack) -> Standing:
    """Read what the stack touches and look it up."""
    copies = [path + COPY for path in stack_.paths if stack.is_kept(stack_, path)]
    image = tree.snapshot(target.root, [*stack_.paths, *copies])
    states = {path: state_of(image[path]) for path in stack_.paths}
    return Standing(target, stack_, image, stack.locate(stack_, states))


def lock_problems(target: Target, stack_: Stack, contents: Mapping[str, bytes]) -> list[str]:
    """How the lock and the patch files differ; nothing when they agree."""
    problems = []
    if stack_.patches and stack_.commit != target.pin:
        problems.append(f"{target.name}: {lockfile.LOCK} is for commit {stack_.commit}, the pin is {target.pin}")
    if [patch.name for patch in stack_.patches] != list(contents):
        problems.append(f"{target.name}: the series was changed after locking")
    known = {patch.name: patch.sha256 for patch in stack_.patches}
    edited = [name for name, data in contents.items() if known.get(name, sha256(data)) != sha256(data)]
    return problems + [f"{target.name}: {name} was edited after locking" for name in edited]


def patches(target: Target, stack_: Stack) -> list[Patch]:
    """The patches of a target, parsed. Raises PatchError unless they are what was locked."""
    contents = series.read_bytes(target.patches)
    problems = lock_problems(target, stack_, contents)
    if problems:
        raise PatchError("; ".join(problems), hint=_LOCK_HINT)
    return [parse(name, data) for name, data in contents.items()]


def check_no_drift(standing: Standing) -> None:
    """Raise PatchError for files that are neither pristine nor at a step: what was expected, and the way out."""
    drifted = standing.position.drifted
    if not drifted:
        return
    path = drifted[0]
    expected = " or ".join(dict.fromkeys(_expected(standing, path)))
    found = state_of(standing.image[path])
    others = f" (and {len(drifted) - 1} more)" if len(drifted) > 1 else ""
    raise PatchError(
        f"{standing.target.name}: {shown(path)}{others} has drifted: it is {found}, expected {expected}",
        hint=edits.cure(standing, drifted),
    )


def _expected(standing: Standing, path: str) -> list[str]:
    stack_ = standing.stack
    steps = [(PRISTINE, "pristine"), (stack_.last, "patched")]
    return [f"{stack_.state(path, step)} ({word})" for step, word in steps]


def copy_of(standing: Standing, path: str) -> Node | None:
    """The pristine copy beside a file, if it is one. Raises PatchError when something else is in its place."""
    copy = standing.image.get(path + COPY)
    if copy is None:
        return None
    if state_of(copy) != standing.stack.state(path, PRISTINE):
        what = "is no pristine copy" if standing.position.steps[path] - {PRISTINE} else "is in the way and not ours"
        raise PatchError(
            f"{standing.target.name}: {shown(path + COPY)} {what}",
            hint="nothing was written; move it away and run this again",
        )
    return copy


def pristine(standing: Standing) -> plan.Image:
    """The tree as it was before any patch: from pristine files, from the copies, or by taking the patches back."""
    image = dict(standing.image)
    missing = []
    for path in standing.stack.paths:
        if PRISTINE in standing.position.steps[path]:
            continue
        copy = copy_of(standing, path)
        wanted = standing.stack.state(path, PRISTINE)
        if copy is None and wanted != state_of(None):
            missing.append(path)
        else:
            image[path] = copy
    return image | _unapplied(standing, missing) if missing else image


def _unapplied(standing: Standing, missing: list[str]) -> plan.Image:
    """Files whose copies are gone, as on a tree that quilt patched: taken back in memory, proven by the lock."""
    step = standing.position.common
    image: plan.Image = dict(standing.image)
    if step is None:
        raise _lost(standing, missing[0])
    for patch in reversed(patches(standing.target, standing.stack)[:step]):
        image = plan.unapply(patch, image).image
    for path in missing:
        if state_of(image.get(path)) != standing.stack.state(path, PRISTINE):
            raise _lost(standing, path)
    return {path: image.get(path) for path in missing}


def _lost(standing: Standing, path: str) -> PatchError:
    name = standing.target.name
    return PatchError(
        f"{name}: the pristine copy of {shown(path)} is gone and cannot be worked out",
        hint=f"get the file back with `git -C {standing.target.root} checkout -- {path}`, or run `lora upstream sync`",
    )


def final(standing: Standing, base: plan.Image) -> tuple[plan.Image, list[plan.Moved]]:
    """The tree after the last patch, every step proven by the lock."""
    image, moved = base, []
    for step, patch in enumerate(patches(standing.target, standing.stack), 1):
        outcome = plan.apply(patch, image)
        image = outcome.image
        moved += outcome.moved
        for path, node in outcome.written.items():
            if path not in standing.stack.pristine or state_of(node) != standing.stack.state(path, step):
                raise PatchError(
                    f"{standing.target.name}: {patch.name} does not give {shown(path)} the state that was locked",
                    hint="run `lora patch lock` and look at what changes",
                )
    links.check(standing.stack.paths, image, standing.target.root)
    return image, moved
