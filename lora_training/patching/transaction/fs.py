"""The files of a tree: reads never follow a symbolic link and open no device; each write is one call of `os`."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from lora_training import files
from lora_training.errors import PatchError
from lora_training.patching.model import EXECUTABLE, FOLDER, LINK, REGULAR, Image, Node, parents
from lora_training.patching.names import shown

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
# A disk does many fsyncs at once in little more time than one; deleting files is similar.
_AT_ONCE = 16
_WORTH_THREADS = 32

_T = TypeVar("_T")


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
        permissions = stat.S_IMODE(status.st_mode)
        if stat.S_ISREG(status.st_mode):
            mode = EXECUTABLE if permissions & 0o100 else REGULAR
            # another process may have replaced the file since
            with open(full, "rb", buffering=0, opener=files.opener) as file:
                return Node(mode, file.readall(), permissions, stamp_of(status))
        if stat.S_ISLNK(status.st_mode):
            return Node(LINK, os.fsencode(os.readlink(full)), None, stamp_of(status))
        if stat.S_ISDIR(status.st_mode):
            return Node(FOLDER, children=frozenset(os.listdir(full)), permissions=permissions)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise PatchError(f"cannot read {shown(path)}: {exc.strerror}", hint=f"below {root}") from exc
    raise PatchError(f"{shown(path)} is neither a file nor a symbolic link", hint="nothing was written")


def stamp_of(status: os.stat_result) -> tuple[int, int, int]:
    """Return the values that change when another process writes the file: its inode, size and time."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def write_new(path: str, node: Node) -> None:
    """Create a file or link with its permissions, which is not synced to the disk. Raises FileExistsError."""
    if node.is_link:
        os.symlink(node.data, os.fsencode(path))
        return
    fd = os.open(path, _CREATE, 0o600)
    try:
        view = memoryview(node.data)
        while view:
            # on a nearly full disk, one call may write only some
            view = view[os.write(fd, view) :]
        os.fchmod(fd, _permissions(node))
    finally:
        os.close(fd)


def _permissions(node: Node) -> int:
    """Return the permission bits for a node: those it was read with, with execute bits according to git's mode."""
    executable = bool(node.mode & 0o100)
    if node.permissions is None:
        # the umask of this process can only be read by setting it
        mask = os.umask(0o077)
        os.umask(mask)
        return (0o777 if executable else 0o666) & ~mask
    if executable == bool(node.permissions & 0o100):
        return node.permissions
    # users who may read may execute, as in git
    return node.permissions | (node.permissions & 0o444) >> 2 if executable else node.permissions & ~0o111


def for_each(items: Sequence[_T], act: Callable[[_T], object]) -> None:
    """Call `act` for every item, in threads when there are many. Raises the first error once all have ended.

    For calls that wait for the disk; one that works in Python is slower this way.
    """
    if len(items) < _WORTH_THREADS:
        for item in items:
            act(item)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        calls = [pool.submit(act, item) for item in items]
    for call in calls:
        call.result()


def is_folder(path: str) -> bool:
    """Whether `path` is a folder, and not a link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def move(source: str, target: str) -> None:
    """Rename `source` to `target`, if `source` exists."""
    try:
        os.rename(source, target)
    except FileNotFoundError:
        if os.path.lexists(source):
            raise
    else:
        # rename does nothing when both are names of one file
        remove(source)


def remove(path: str | Path) -> None:
    """Remove a file if it exists."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(path)


def remove_folder(path: str | Path) -> None:
    """Remove a folder if it exists and is empty."""
    with contextlib.suppress(OSError):
        os.rmdir(path)


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to the file `path` atomically, with a new file's permissions.

    Raises PatchError when that fails; the old file is then unchanged.
    """
    try:
        files.write(path, data, synced=True)
    except OSError as exc:
        raise PatchError(f"cannot write {path}: {exc.strerror}", hint="it is as it was") from exc
