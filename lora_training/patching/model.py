"""What a patch and a file are, in memory. No I/O here."""

from __future__ import annotations

import hashlib
import stat
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
    """One place in a file: `old` is taken out and `new` put in, both with their context and line ends.

    `old_start` is the line number that the patch states, from 1; `leading` and `trailing` count context lines.
    `line` is the hunk header's line number in the patch file.
    """

    line: int
    old_start: int
    new_start: int
    old: bytes
    new: bytes
    leading: int
    trailing: int

    def reversed(self) -> Hunk:
        """The hunk that takes `new` back to `old`."""
        return self._replace(old_start=self.new_start, new_start=self.old_start, old=self.new, new=self.old)


@dataclass(frozen=True)
class Binary:
    """One direction of a git binary patch: the whole new content, or a delta on the old."""

    method: Literal["literal", "delta"]
    payload: bytes


@dataclass(frozen=True)
class Change:
    """What one section of a patch does to one file. Names are relative to the tree, with `/`, checked and stripped.

    Modes are git's, None where the patch does not say. `old_id` and `new_id` are git's blob ids from an `index` line,
    possibly abbreviated. `exact_delete` means that the patch removes the file and not only its content.
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
        """The names that this change reads or writes."""
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
        """Every name that the patch reads or writes, once, in order."""
        return tuple(dict.fromkeys(path for change in self.changes for path in change.paths))


@dataclass(frozen=True)
class Node:
    """A file as it is or shall be: git's mode and the content (a symbolic link's is its target).

    `permissions` and `stamp` are known only of files that were read from a disk; they take no part in comparisons.
    A folder is a Node too, with the names in it as `children`.
    """

    mode: int
    data: bytes = b""
    permissions: int | None = field(default=None, compare=False)
    stamp: tuple[int, int, int] | None = field(default=None, compare=False)
    children: frozenset[str] = frozenset()

    @property
    def is_folder(self) -> bool:
        """Whether this is a folder, which no patch can name."""
        return self.mode == FOLDER

    @property
    def is_link(self) -> bool:
        """Whether this is a symbolic link."""
        return stat.S_ISLNK(self.mode)

    @cached_property
    def state(self) -> str:
        """How the lock names the state."""
        return ABSENT if self.is_folder else f"{self.mode:06o} {sha256(self.data)}"


def state_of(node: Node | None) -> str:
    """How the lock names a file's state: `absent`, or git's mode and the content's sha256."""
    return ABSENT if node is None else node.state


def sha256(data: bytes) -> str:
    """The hexadecimal sha256 of `data`."""
    return hashlib.sha256(data).hexdigest()
