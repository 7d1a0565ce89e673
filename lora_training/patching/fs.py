"""The few writes that a transaction is made of. All go through `os`, one system call each where that is possible."""

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
# A disk takes many fsyncs at once in little more time than one; so it is with giving space free.
_AT_ONCE = 16
_WORTH_THREADS = 32
_OPEN_AT_ONCE = 128

_T = TypeVar("_T")


def write_new(path: str, node: Node) -> None:
    """Make a file that is not there yet, with its permissions, and have it on the disk before returning."""
    with batch() as files:
        files.write(path, node)


class Batch:
    """New files that are open: written one after the other, and brought to the disk together."""

    def __init__(self) -> None:
        self.open: list[int] = []

    def write(self, path: str, node: Node) -> None:
        """Make a file that is not there yet, with its permissions."""
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
        """Have the open files on the disk."""
        for_each(self.open, os.fsync)

    def close(self) -> None:
        """Close them, whether on the disk or not."""
        while self.open:
            os.close(self.open.pop())


@contextlib.contextmanager
def batch() -> Iterator[Batch]:
    """New files that are on the disk once the `with` block has ended without an error, and not before.

    Links are not: they get there with their folder, by `sync_folder`.
    """
    files = Batch()
    try:
        yield files
        files.sync()
    finally:
        files.close()


def write_all(fd: int, data: bytes) -> None:
    """Write every byte: a nearly full disk may take only some at first."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def permissions(node: Node) -> int:
    """The permission bits for a node: those it was read with, its execute bits following git's mode."""
    executable = bool(node.mode & 0o100)
    if node.permissions is None:
        return (0o777 if executable else 0o666) & ~umask()
    if executable == bool(node.permissions & 0o100):
        return node.permissions
    # who may read may execute, as in git
    return node.permissions | (node.permissions & 0o444) >> 2 if executable else node.permissions & ~0o111


def umask() -> int:
    """This process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def for_each(items: Sequence[_T], act: Callable[[_T], object]) -> None:
    """Do `act` to every item, many at once when there are many. Raises the first error when all have come to an end.

    For calls that wait for the disk: one that does more in Python than that is slower this way.
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
    """Give an existing file or link a second name. Raises OSError where the file system has no hard links."""
    os.link(source, target, follow_symlinks=False)


def is_folder(path: str) -> bool:
    """Whether a real folder is there, and not a link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def is_file(path: str) -> bool:
    """Whether something is there that is no folder: a file, or a link to anything."""
    try:
        return not stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def make_folder(path: str) -> None:
    """Make a folder unless something is there."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)


def set_mode(path: str, mode: int) -> None:
    """Give a folder these permission bits unless it has them, and may be another user's."""
    if stat.S_IMODE(os.lstat(path).st_mode) != mode:
        os.chmod(path, mode)


def move(source: str, target: str) -> None:
    """Put `source` in the place of `target`, if `source` is there."""
    try:
        os.rename(source, target)
    except FileNotFoundError:
        if os.path.lexists(source):
            raise
    else:
        # two names of one file: rename leaves both and reports success
        remove(source)


def remove(path: str | Path) -> None:
    """Take a name away if it is there."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(path)


def remove_folder(path: str | Path) -> None:
    """Take a folder away if it is there and empty."""
    with contextlib.suppress(OSError):
        os.rmdir(path)


def sync_folder(path: str | Path) -> None:
    """Have a folder's names on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` in the place of the file `path` in one step, with a new file's permissions.

    Raises PatchError when that cannot be done; the old file is then still there.
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
