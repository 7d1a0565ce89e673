"""The writes of a transaction, all through `os`, one system call each where that is possible."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from typing import TYPE_CHECKING, TypeVar

from lora_training.errors import PatchError
from lora_training.patching.model import REGULAR, Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
# A disk does many fsyncs at once in little more time than one; deleting files is similar.
_AT_ONCE = 16
_WORTH_THREADS = 32
_OPEN_AT_ONCE = 128

_T = TypeVar("_T")


def write_new(path: str, node: Node) -> None:
    """Create a file with its permissions and sync it to the disk. Raises FileExistsError if it exists."""
    with batch() as files:
        files.write(path, node)


class Batch:
    """New files that are written one after the other and synced to the disk together."""

    def __init__(self) -> None:
        self.open: list[int] = []

    def write(self, path: str, node: Node) -> None:
        """Create a file with its permissions. Raises FileExistsError if it exists."""
        if node.is_link:
            os.symlink(node.data, os.fsencode(path))
            return
        if len(self.open) == _OPEN_AT_ONCE:
            self.sync()
            self.close()
        fd = os.open(path, _CREATE, 0o600)
        self.open.append(fd)
        write_all(fd, node.data)
        os.fchmod(fd, permissions(node))

    def sync(self) -> None:
        """Sync the open files to the disk."""
        for_each(self.open, os.fsync)

    def close(self) -> None:
        """Close the open files, whether synced or not."""
        while self.open:
            os.close(self.open.pop())


@contextlib.contextmanager
def batch() -> Iterator[Batch]:
    """Yield a Batch whose files are synced to the disk when the `with` block ends without an error.

    Symbolic links are synced with their folder, by `sync_folder`.
    """
    files = Batch()
    try:
        yield files
        files.sync()
    finally:
        files.close()


def write_all(fd: int, data: bytes) -> None:
    """Write every byte: on a nearly full disk, one call may write only some."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def permissions(node: Node) -> int:
    """The permission bits for a node: those it was read with, with execute bits according to git's mode."""
    executable = bool(node.mode & 0o100)
    if node.permissions is None:
        return (0o777 if executable else 0o666) & ~umask()
    if executable == bool(node.permissions & 0o100):
        return node.permissions
    # users who may read may execute, as in git
    return node.permissions | (node.permissions & 0o444) >> 2 if executable else node.permissions & ~0o111


def umask() -> int:
    """The umask of this process, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def for_each(items: Sequence[_T], act: Callable[[_T], object]) -> None:
    """Call `act` for every item, in threads when there are many. Raises the first error once all have ended.

    For calls that wait for the disk; one that works in Python is slower this way.
    """
    if len(items) < _WORTH_THREADS:
        for item in items:
            act(item)
        return
    errors: list[BaseException] = []
    shares = [items[start::_AT_ONCE] for start in range(_AT_ONCE)]
    threads = [threading.Thread(target=_share, args=(share, act, errors)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _share(items: Iterable[_T], act: Callable[[_T], object], errors: list[BaseException]) -> None:
    try:
        for item in items:
            act(item)
    except BaseException as exc:  # noqa: BLE001 - raised again by the thread that waits
        errors.append(exc)


def same_again(source: str, target: str) -> None:
    """Hard-link a file or symbolic link. Raises OSError where the file system has no hard links."""
    os.link(source, target, follow_symlinks=False)


def is_folder(path: str) -> bool:
    """Whether `path` is a folder, and not a link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def is_file(path: str) -> bool:
    """Whether `path` is a file or a symbolic link."""
    try:
        return not stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def make_folder(path: str) -> None:
    """Make a folder unless the name is taken."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)


def set_mode(path: str, mode: int) -> None:
    """Set the permission bits of a folder, unless it has them: it may belong to another user."""
    if stat.S_IMODE(os.lstat(path).st_mode) != mode:
        os.chmod(path, mode)


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


def sync_folder(path: str | Path) -> None:
    """Sync the names in a folder to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to the file `path` atomically, with a new file's permissions.

    Raises PatchError when that fails; the old file is then unchanged.
    """
    temporary = os.fspath(path.with_name(f".{path.name}.{os.getpid()}.tmp"))
    remove(temporary)
    try:
        write_new(temporary, Node(REGULAR, data))
        os.replace(temporary, path)
    except OSError as exc:
        remove(temporary)
        raise PatchError(f"cannot write {path}: {exc.strerror}", hint="it is as it was") from exc
    sync_folder(path.parent)
