"""A series with the state of every file at every step, so that a tree's step can be looked up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lora_training.errors import PatchError
from lora_training.patching import names, planning
from lora_training.patching.model import ABSENT, Image, Node, Patch, folders_of, parents, state_of
from lora_training.patching.names import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PRISTINE = 0

# The permission bits of each folder, None for a missing one.
Folders = dict[str, "int | None"]


@dataclass(frozen=True)
class LockedPatch:
    """A patch in the lock: its sha256, and the state of each file it touches once it is applied.

    `folders` are recorded for patches on any folder only: the permission bits of each before, None for a missing one.
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
    """Return `stack`, which was read from a file. Raises ValueError when it is not valid."""
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
    """The steps of a series at which each file of a tree is, the drifted files, and the common step if there is one."""

    steps: Mapping[str, frozenset[int]]
    drifted: tuple[str, ...]
    common: int | None


def locate(stack: Stack, states: Mapping[str, str]) -> Position:
    """Look up the steps of a tree's files from their states. The common step is the latest that fits all files."""
    steps = {path: stack.steps_of(path, states[path]) for path in stack.paths}
    drifted = tuple(path for path, found in steps.items() if not found)
    shared = frozenset(range(stack.last + 1)).intersection(*steps.values()) if steps else frozenset({stack.last})
    return Position(steps, drifted, max(shared, default=None))


def build(
    commit: str, patches: Sequence[Patch], pristine: Mapping[str, Node | None]
) -> tuple[Stack, Image, list[planning.Moved]]:
    """Apply a series to pristine files; return the stack to lock, the patched tree, and the hunks found elsewhere."""
    image: Image = dict(pristine)
    locked = []
    moved = []
    for patch in patches:
        outcome = planning.apply(patch, image)
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
    """Raise PatchError when a file replaces a folder in which a pristine copy would have to be kept."""
    for path in stack.paths:
        taken = [p for p in parents(path) if p in stack.pristine and stack.state(p, stack.last) != ABSENT]
        if taken and is_kept(stack, path):
            raise PatchError(
                f"the patches turn the folder {shown(taken[0])} into a file, "
                f"but {shown(path)} in it needs a place for its pristine copy",
                hint="give that file another name in the patch; nothing was written",
            )


def touched(stack: Stack) -> tuple[str, ...]:
    """The files that the series changes."""
    return tuple(path for path in stack.paths if stack.state(path, stack.last) != stack.state(path, PRISTINE))


def is_kept(stack: Stack, path: str) -> bool:
    """Whether an applied tree has a pristine copy of this file beside it."""
    pristine = stack.state(path, PRISTINE)
    return pristine != ABSENT and stack.state(path, stack.last) != pristine


def folders_before(disk: Mapping[str, Node | None], written: Mapping[str, Node | None]) -> Folders:
    """The folders of `disk` that are made or removed when `written` is written, with their permission bits."""
    needed = folders_of(path for path, node in written.items() if node)
    left = folders_of(path for path, node in written.items() if not node) - needed
    found: Folders = {path: None for path in needed if (bits := _bits(disk, path)) is None}
    found |= {path: bits for path in left if (bits := _bits(disk, path)) is not None}
    replaced = tuple(f"{path}/" for path, node in written.items() if node and _bits(disk, path) is not None)
    inside = (path for path in disk if f"{path}/".startswith(replaced))
    return found | {path: bits for path in inside if (bits := _bits(disk, path)) is not None}


def _bits(disk: Mapping[str, Node | None], path: str) -> int | None:
    node = disk.get(path)
    return node.permissions if node is not None and node.is_folder else None


def check_folders(content: Any) -> Folders:
    """Return folders that were read from JSON. Raises ValueError for any other value."""
    if not isinstance(content, dict) or any(names.problem(path) for path in content):
        raise ValueError("folders that no patch may make")
    if not all(bits is None or (type(bits) is int and 0 <= bits <= 0o7777) for bits in content.values()):  # noqa: PLR2004
        raise ValueError("permissions that no folder may have")
    return content
