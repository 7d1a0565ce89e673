"""Read the files of a tree, never through a symbolic link and never a device."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from lora_training.errors import PatchError
from lora_training.patching.model import EXECUTABLE, FOLDER, LINK, REGULAR, Image, Node, parents
from lora_training.patching.names import raw, shown

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


# O_NONBLOCK: if a pipe replaces the file after lstat, opening it does not wait for a writer.
_READ = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_PART = 1 << 16


def snapshot(root: Path, paths: Iterable[str]) -> Image:
    """Read each of `paths` below `root`, and every folder above one. Raises PatchError for devices.

    A name below a symbolic link or a file counts as missing; the planner sees the link and refuses the patch.
    """
    image: Image = {}
    for path in paths:
        if path not in image and _folders_are_real(root, path, image):
            image[path] = read(root, path)
            _read_children(root, path, image)
        image.setdefault(path, None)
    return image


def _folders_are_real(root: Path, path: str, image: Image) -> bool:
    for parent in parents(path):
        if parent not in image:
            image[parent] = read(root, parent)
        node = image[parent]
        if node is None or not node.is_folder:
            return False
    return True


def _read_children(root: Path, path: str, image: Image) -> None:
    """Read all files in a folder: a patch may replace the folder only if it removes them."""
    node = image[path]
    for child in node.children if node is not None and node.is_folder else ():
        name = f"{path}/{child}"
        if name not in image:
            image[name] = read(root, name)
            _read_children(root, name, image)


def read(root: Path, path: str) -> Node | None:
    """Read the file, link or folder at `path`, without following a link; None when there is none."""
    full = os.path.join(root, path)
    try:
        status = os.lstat(full)
        return _node(full, status, path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise PatchError(f"cannot read {shown(path)}: {exc.strerror}", hint=f"below {root}") from exc


def _node(full: str, status: os.stat_result, path: str) -> Node:
    stamp = stamp_of(status)
    if stat.S_ISREG(status.st_mode):
        mode = EXECUTABLE if status.st_mode & 0o100 else REGULAR
        return Node(mode, _content(full, status.st_size), stat.S_IMODE(status.st_mode), stamp)
    if stat.S_ISLNK(status.st_mode):
        return Node(LINK, raw(os.readlink(full)), None, stamp)
    if stat.S_ISDIR(status.st_mode):
        return Node(FOLDER, children=frozenset(os.listdir(full)), permissions=stat.S_IMODE(status.st_mode))
    raise PatchError(f"{shown(path)} is neither a file nor a symbolic link", hint="nothing was written")


def _content(full: str, size: int) -> bytes:
    fd = os.open(full, _READ)
    try:
        parts = []
        while part := os.read(fd, max(size, _PART) + 1):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def stamp_of(status: os.stat_result) -> tuple[int, int, int]:
    """Values that change when another process writes the file: its inode, size and time."""
    return status.st_ino, status.st_size, status.st_mtime_ns
