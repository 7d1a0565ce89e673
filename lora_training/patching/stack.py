"""A series with the state of every file at every step: what is looked up instead of guessed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lora_training.errors import PatchError
from lora_training.patching import names, plan
from lora_training.patching.model import ABSENT, Node, Patch, state_of
from lora_training.patching.names import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PRISTINE = 0


@dataclass(frozen=True)
class LockedPatch:
    """A patch as it was locked: its sha256, and the state of each file it touches once it is in.

    `folders` is known of patches on any folder only: the permission bits that each one had before, None for none.
    """

    name: str
    sha256: str
    files: Mapping[str, str]
    folders: Mapping[str, int | None] | None = None


@dataclass(frozen=True)
class Stack:
    """A locked series: the commit it is for, the pristine state of each file, and its patches."""

    commit: str
    pristine: Mapping[str, str]
    patches: tuple[LockedPatch, ...]

    @property
    def last(self) -> int:
        """The number of the last step: how many patches there are."""
        return len(self.patches)

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file that the series touches."""
        return tuple(self.pristine)

    @cached_property
    def _histories(self) -> dict[str, list[str]]:
        histories = {path: [state] for path, state in self.pristine.items()}
        for locked in self.patches:
            for path, history in histories.items():
                history.append(locked.files.get(path, history[-1]))
        return histories

    def state(self, path: str, step: int) -> str:
        """The state that a file has at a step."""
        return self._histories[path][step]

    def steps_of(self, path: str, state: str) -> frozenset[int]:
        """The steps at which a file has that state; none when it drifted."""
        return frozenset(step for step, there in enumerate(self._histories[path]) if there == state)


def check(stack: Stack) -> Stack:
    """`stack` as it was read from a file that anybody may have written. Raises ValueError when it makes no sense."""
    tables = [stack.pristine, *(locked.files for locked in stack.patches)]
    words = [stack.commit, *(word for locked in stack.patches for word in (locked.name, locked.sha256))]
    if not all(isinstance(table, dict) for table in tables):
        raise ValueError("something else in the place of a table")
    if not all(isinstance(word, str) for word in (*words, *(state for table in tables for state in table.values()))):
        raise ValueError("something else in the place of a word")
    if any(names.problem(path) for path in stack.pristine):
        raise ValueError("a name that no patch may have")
    if any(set(table) - set(stack.pristine) for table in tables):
        raise ValueError("a file without its pristine state")
    return stack


@dataclass(frozen=True)
class Position:
    """Where a tree stands: each file's steps, the step that all files share if there is one, and those that drifted."""

    steps: Mapping[str, frozenset[int]]
    drifted: tuple[str, ...]
    common: int | None


def locate(stack: Stack, states: Mapping[str, str]) -> Position:
    """Look up where a tree stands, from the states of its files. The latest step wins where several fit."""
    steps = {path: stack.steps_of(path, states[path]) for path in stack.paths}
    drifted = tuple(path for path, found in steps.items() if not found)
    shared = frozenset(range(stack.last + 1)).intersection(*steps.values()) if steps else frozenset({stack.last})
    return Position(steps, drifted, max(shared, default=None))


def build(
    commit: str, patches: Sequence[Patch], pristine: Mapping[str, Node | None]
) -> tuple[Stack, plan.Image, list[plan.Moved]]:
    """Work a series out on pristine files: the stack to lock, the tree after the last patch, hunks found elsewhere."""
    image: plan.Image = dict(pristine)
    locked = []
    moved = []
    for patch in patches:
        outcome = plan.apply(patch, image)
        image = outcome.image
        moved += outcome.moved
        files = {path: state_of(node) for path, node in outcome.written.items()}
        locked.append(LockedPatch(patch.name, patch.sha256, files))
    paths = sorted({path for patch in patches for path in patch.paths})
    _check_copies_kept_apart(paths)
    stack = Stack(commit, {path: state_of(pristine.get(path)) for path in paths}, tuple(locked))
    check_copies_have_room(stack)
    return stack, image, moved


def _check_copies_kept_apart(paths: Sequence[str]) -> None:
    for path in paths:
        if f"{path}.orig" in paths:
            raise PatchError(f"{path}.orig is touched by a patch, but that is where {path} is kept")


def check_copies_have_room(stack: Stack) -> None:
    """Raise PatchError when a file ends up where there was a folder, and pristine copies would be kept in that."""
    for path in stack.paths:
        taken = [p for p in plan.parents(path) if p in stack.pristine and stack.state(p, stack.last) != ABSENT]
        if taken and is_kept(stack, path):
            raise PatchError(
                f"the patches turn the folder {shown(taken[0])} into a file, "
                f"but {shown(path)} in it needs a place for its pristine copy",
                hint="give that file another name in the patch; nothing was written",
            )


def touched(stack: Stack) -> tuple[str, ...]:
    """The files whose last state is another than their pristine one."""
    return tuple(path for path in stack.paths if stack.state(path, stack.last) != stack.state(path, PRISTINE))


def is_kept(stack: Stack, path: str) -> bool:
    """Whether an applied tree has a pristine copy of this file beside it."""
    pristine = stack.state(path, PRISTINE)
    return pristine != ABSENT and stack.state(path, stack.last) != pristine
