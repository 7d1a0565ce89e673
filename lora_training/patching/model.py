"""Patches and files in memory."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

REGULAR = 0o100644
EXECUTABLE = 0o100755
LINK = 0o120000
FOLDER = 0o040000
MODES = frozenset({REGULAR, EXECUTABLE, LINK})

ABSENT = "absent"

Action = Literal["modify", "create", "delete", "rename", "copy"]


class Hunk(NamedTuple):
    """One hunk of a file: `old` is replaced with `new`, both with their context lines and line ends.

    `old_start` and `new_start` are line numbers in the hunk's header, from 1; `leading` and `trailing` count context
    lines. `line` is the header's line number in the patch file.
    """

    line: int
    old_start: int
    new_start: int
    old: bytes
    new: bytes
    leading: int
    trailing: int

    def reversed(self) -> Hunk:
        """The hunk that replaces `new` with `old`."""
        return self._replace(old_start=self.new_start, new_start=self.old_start, old=self.new, new=self.old)


@dataclass(frozen=True)
class Binary:
    """One direction of a git binary patch: the whole new content, or a delta on the old."""

    method: Literal["literal", "delta"]
    payload: bytes


@dataclass(frozen=True)
class Change:
    """The change of one file in a patch. Names are relative to the tree, with `/`, checked and stripped.

    Modes are git's, None where the patch does not say. `old_id` and `new_id` are git's blob ids from an `index` line,
    possibly abbreviated. `line` is the line number of its section in the patch file.
    """

    action: Action
    old: str
    new: str
    line: int
    hunks: tuple[Hunk, ...] = ()
    old_mode: int | None = None
    new_mode: int | None = None
    old_id: str = ""
    new_id: str = ""
    forward: Binary | None = None
    backward: Binary | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The names of the files that this change reads or writes."""
        return (self.old,) if self.old == self.new else (self.old, self.new)


@dataclass(frozen=True)
class Patch:
    """A whole patch file: its name, its exact bytes' sha256, the text before the first diff, and its changes."""

    name: str
    sha256: str
    preamble: bytes
    changes: tuple[Change, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """The names of all files that the patch reads or writes, each once, in order."""
        return tuple(dict.fromkeys(path for change in self.changes for path in change.paths))


@dataclass(frozen=True)
class Node:
    """A file, symbolic link or folder: git's mode and the content; of a link its target, of a folder its `children`.

    `permissions` and `stamp` are known only of files that were read from the disk; comparisons ignore them.
    """

    mode: int
    data: bytes = b""
    permissions: int | None = field(default=None, compare=False)
    stamp: tuple[int, int, int] | None = field(default=None, compare=False)
    children: frozenset[str] = frozenset()

    @property
    def is_folder(self) -> bool:
        """Whether this is a folder."""
        return self.mode == FOLDER

    @property
    def is_link(self) -> bool:
        """Whether this is a symbolic link."""
        return stat.S_ISLNK(self.mode)

    @cached_property
    def state(self) -> str:
        """The file's state as the lock has it."""
        return ABSENT if self.is_folder else f"{self.mode:06o} {sha256(self.data)}"


# The part of a tree that patches touch: every name they use and every folder above one. Missing and None: no file.
Image = dict[str, "Node | None"]


def state_of(node: Node | None) -> str:
    """The state of a file as the lock has it: `absent`, or git's mode and the content's sha256."""
    return ABSENT if node is None else node.state


def sha256(data: bytes) -> str:
    """The hexadecimal sha256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def parents(path: str) -> list[str]:
    """The folders above a name, outermost first."""
    return [path[:i] for i, character in enumerate(path) if character == "/"]


def folders_of(paths: Iterable[str]) -> set[str]:
    """Every folder above one of `paths`."""
    return {parent for path in paths for parent in parents(path)}
