"""The state of an upstream's tree: its files compared with the lock, and its local edits."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lora_training.errors import PatchError
from lora_training.patching import lockfile, names, planning, series
from lora_training.patching.diff import parse
from lora_training.patching.lockfile import PRISTINE, Stack
from lora_training.patching.model import ABSENT, Image, Node, Patch, sha256, state_of
from lora_training.patching.names import shown
from lora_training.patching.series import Target
from lora_training.patching.transaction import fs
from lora_training.patching.transaction.journal import Write

COPY = ".orig"
_SHOWN = 5


@dataclass(frozen=True)
class TreeState:
    """A target with its locked series, the files that were read (pristine copies too), and the steps of each file.

    `common` is the latest step that fits all files, None if there is none.
    """

    target: Target
    stack: Stack
    image: Image
    steps: Mapping[str, frozenset[int]]
    common: int | None

    @property
    def drifted(self) -> tuple[str, ...]:
        """The files that are at no step."""
        return tuple(path for path, found in self.steps.items() if not found)


def read(target: Target, stack: Stack) -> TreeState:
    """Read the files that a series touches and look their states up in the lock."""
    copies = [path + COPY for path in stack.pristine if stack.is_kept(path)]
    image = fs.snapshot(target.root, [*stack.pristine, *copies])
    steps = {path: stack.steps_of(path, state_of(image[path])) for path in stack.pristine}
    shared = frozenset(range(stack.last + 1)).intersection(*steps.values()) if steps else {stack.last}
    return TreeState(target, stack, image, steps, max(shared, default=None))


def locked(target: Target, stacks: Mapping[str, Stack]) -> Stack:
    """Return the locked series of a target; an empty one for a target without patches.

    Raises PatchError when the series has patches and the lock has none of them.
    """
    if target.name in stacks:
        return stacks[target.name]
    if series.names(target.patches):
        hint = "run `lora patch lock`"
        raise PatchError(f"{lockfile.LOCK} says nothing about the patches of {target.name}", hint=hint)
    return Stack(target.pin, {}, ())


def lock_problems(target: Target, stack: Stack, contents: Mapping[str, bytes]) -> list[str]:
    """Return the differences between the lock and the patch files."""
    problems = []
    if stack.patches and stack.commit != target.pin:
        problems.append(f"{lockfile.LOCK} is for commit {stack.commit}, the pin is {target.pin}")
    if [patch.name for patch in stack.patches] != list(contents):
        problems.append("the series was changed after locking")
    known = {patch.name: patch.sha256 for patch in stack.patches}
    edited = [name for name, data in contents.items() if known.get(name, sha256(data)) != sha256(data)]
    return problems + [f"{name} was edited after locking" for name in edited]


def read_locked(target: Target, stack: Stack) -> dict[str, bytes]:
    """Return the patch files of a target. Raises PatchError unless they are the locked ones."""
    contents = series.read_bytes(target.patches)
    problems = lock_problems(target, stack, contents)
    if problems:
        raise PatchError(f"{target.name}: {'; '.join(problems)}", hint="look at the change, then run `lora patch lock`")
    return contents


def _patches(state: TreeState) -> list[Patch]:
    return [parse(name, data) for name, data in read_locked(state.target, state.stack).items()]


def check_no_drift(state: TreeState) -> None:
    """Raise PatchError for files that are neither pristine nor at a step of the series."""
    drifted = state.drifted
    if not drifted:
        return
    path = drifted[0]
    steps = [(PRISTINE, "pristine"), (state.stack.last, "patched")]
    expected = dict.fromkeys(f"{state.stack.state(path, step)} ({word})" for step, word in steps)
    others = f" (and {len(drifted) - 1} more)" if len(drifted) > 1 else ""
    raise PatchError(
        f"{state.target.name}: {shown(path)}{others} has drifted: "
        f"it is {state_of(state.image[path])}, expected {' or '.join(expected)}",
        hint=edits_hint(state, drifted),
    )


def check_copies(state: TreeState) -> bool:
    """Return whether no pristine copy is missing. Raises PatchError when another file is in the place of one."""
    kept = [path for path in state.stack.pristine if state.stack.is_kept(path)]
    for path in kept:
        copy = state.image[path + COPY]
        if copy is not None and state_of(copy) != state.stack.state(path, PRISTINE):
            is_patched = state.steps[path] - {PRISTINE}
            what = "is not the pristine copy" if is_patched else "is in the way of the pristine copy"
            raise PatchError(
                f"{state.target.name}: {shown(path + COPY)} {what}",
                hint="nothing was written; move it away and run this again",
            )
    return all(state.image[path + COPY] for path in kept)


def pristine(state: TreeState) -> Image:
    """Return the tree without patches: from pristine files, from their copies, or by reversing the patches."""
    image = dict(state.image)
    missing = []
    for path, steps in state.steps.items():
        if PRISTINE not in steps:
            image[path] = image.get(path + COPY)
            if image[path] is None and state.stack.state(path, PRISTINE) != ABSENT:
                missing.append(path)
    return image | _unapplied(state, missing) if missing else image


def _unapplied(state: TreeState, missing: list[str]) -> Image:
    """Reverse the patches for files without a copy, as on a tree that quilt patched; the lock proves the result."""
    step = state.common
    image: Image = dict(state.image)
    for patch in reversed(_patches(state)[:step]) if step is not None else ():
        image = planning.unapply(patch, image).image
    for path in missing:
        if step is None or state_of(image.get(path)) != state.stack.state(path, PRISTINE):
            root = state.target.root
            raise PatchError(
                f"{state.target.name}: the pristine copy of {shown(path)} is gone and cannot be worked out",
                hint=f"get the file back with `git -C {root} checkout -- {path}`, or run `lora upstream sync`",
            )
    return {path: image.get(path) for path in missing}


def writes(paths: Iterable[str], now: Image, base: Image, after: Image) -> list[Write]:
    """Return the writes that turn `now` into `after`, with a copy beside each file that differs from the pristine."""
    found = []
    for path in paths:
        old, new, copy = (_file(image.get(name)) for image, name in ((base, path), (after, path), (now, path + COPY)))
        is_kept = old is not None and state_of(new) != state_of(old)
        is_copy = copy is not None and state_of(copy) == state_of(old)
        found.append(Write(path, now[path], new, same_as=path + COPY if is_copy and not is_kept else None))
        if is_kept and copy is None:
            # the pristine file itself becomes the copy, with its times, unless it is gone already
            itself = path if state_of(now[path]) == state_of(old) else None
            found.append(Write(path + COPY, None, old, same_as=itself))
        elif is_copy and not is_kept:
            found.append(Write(path + COPY, copy, None))
    return found


def _file(node: Node | None) -> Node | None:
    return None if node is None or node.is_folder else node


def patched(state: TreeState, base: Image) -> tuple[Image, list[planning.Moved]]:
    """Return the tree after the last patch; every step is checked against the lock."""
    image, moved = base, []
    for step, patch in enumerate(_patches(state), 1):
        outcome = planning.apply(patch, image)
        image = outcome.image
        moved += outcome.moved
        for path, node in outcome.written.items():
            if path not in state.stack.pristine or state_of(node) != state.stack.state(path, step):
                raise PatchError(
                    f"{state.target.name}: {patch.name} does not give {shown(path)} the state that was locked",
                    hint="run `lora patch lock` and look at what changes",
                )
    names.check_links(state.stack.pristine, image, state.target.root)
    return image, moved


def local_edits(state: TreeState) -> tuple[str, ...]:
    """Return the files of a tree that differ from its commit and from every step of the series."""
    in_series = {path for path, steps in state.steps.items() if steps}
    # at another commit than its pin, the lock does not describe the tree's files
    drifted = state.drifted if state.target.commit == state.target.pin else ()
    return tuple(sorted({*drifted, *state.target.changed()} - in_series))


def outside_series(state: TreeState, edited: Sequence[str]) -> tuple[str, ...]:
    """Return the edited files that no patch touches."""
    return tuple(path for path in edited if path not in state.steps)


def edits_sentence(edited: Sequence[str]) -> str:
    """Return a phrase that names the edited files, the first few of them."""
    more = f" and {len(edited) - _SHOWN} more" if edited[_SHOWN:] else ""
    return f"local edits that no locked patch contains: {', '.join(map(shown, edited[:_SHOWN]))}{more}"


def edits_line(edited: Sequence[str], hint: str | None) -> str:
    """Return the end of a line that names the edited files, and their hint on lines below; empty without a hint."""
    return "\n  ".join([f", {edits_sentence(edited)}", *hint.splitlines()]) if hint else ""


def edits_hint(state: TreeState, edited: Sequence[str]) -> str:
    """Return the commands that deal with local edits, one line each."""
    name, known = state.target.name, {patch.name for patch in state.stack.patches}
    drop = f"`lora upstream sync {name} --discard-edits`, then `lora patch apply`"
    # of a tree without a repository, only patched files can be had as they were
    manifest = {} if state.target.manifest is None else state.target.manifest()
    lacking = unpatched(state)
    if any(path in manifest for path in (*outside_series(state, edited), *lacking) if path in edited):
        return f"throw them away: {drop}"
    if unlocked := [each for each in series.names(state.target.patches) if each not in known]:
        fill = f"if they are in {unlocked[-1]}, fill in its header, then `lora patch lock`, `lora patch apply`"
        return f"{fill}\nthrow them away: {drop}"
    if not any(os.path.lexists(state.target.root / path) for path in edited):
        return f"bring back what was deleted: {drop}"
    ways = [
        "keep them in FILE as a patch: `lora patch revert --keep-edits FILE`, then `lora patch apply`",
        f"make them a patch of the series of {name}: `lora patch new {name} TITLE`",
        f"add them to its last patch: `lora patch refresh {name}`",
    ]
    if lacking:
        ways[1:] = [f"apply the patches below them, before a patch is made of them: {apply_below(state)}"]
    return "\n".join((*ways, f"throw them away: {drop}"))


def unpatched(state: TreeState) -> tuple[str, ...]:
    """Return the files that lack patches of the series: those edited without it, and those at an earlier step."""
    if state.target.commit != state.target.pin:
        return ()
    behind = [path for path, steps in state.steps.items() if steps and state.stack.last not in steps]
    # another tool than `lora` keeps no pristine copy of a file that it patches
    bare = [path for path in state.drifted if state.stack.is_kept(path) and state.image.get(path + COPY) is None]
    return (*(bare if bare and not _are_in(state) else ()), *behind)


def _are_in(state: TreeState) -> bool:
    """Return whether the patches can be taken out of the edited files."""
    image: Image = dict(state.image)
    try:
        for patch in reversed(_patches(state)):
            image = planning.unapply(patch, image).image
    except PatchError:
        return False
    return True


def apply_below(state: TreeState) -> str:
    """Return the command that applies the series to a tree with edits, and keeps those."""
    if not state.drifted:
        return "`lora patch apply`"
    checkout, name = state.target.patches.parents[1], state.target.name
    kept, tree = checkout / f"{name}-edits.patch", os.path.relpath(state.target.root, checkout)
    commands = (
        ("lora", "patch", "revert", name, "--keep-edits", str(kept)),
        ("lora", "patch", "apply"),
        ("git", "-C", str(checkout), "apply", f"--directory={tree}", kept.name),
    )
    return f"`{' && '.join(map(shlex.join, commands))}`"


def refuse_edits(state: TreeState, edited: Sequence[str]) -> None:
    """Raise PatchError when there are local edits."""
    if edited:
        raise PatchError(f"{state.target.name} has {edits_sentence(edited)}", hint=edits_hint(state, edited))
