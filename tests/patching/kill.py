"""Run a function in a child that dies, or whose disk is full, at its n-th writing system call."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable

WRITES = (
    "open",
    "write",
    "fsync",
    "fchmod",
    "chmod",
    "rename",
    "replace",
    "link",
    "symlink",
    "unlink",
    "mkdir",
    "rmdir",
    "truncate",
    "close",
)
_SPACE = {"open", "write", "link", "symlink", "mkdir"}


def survives(function: Callable[[], object], at: int, *, torn: bool = False) -> bool:
    """Whether `function` came to its end in a child killed before (with `torn`, in the middle of) system call `at`."""
    return _child(function, lambda: _patch(at, _kill, torn=torn)) == 0


def without_space(function: Callable[[], object], at: int) -> int:
    """The exit code of a child in which calls that take disk space fail from call `at` on: 0, or 5 for PatchError."""
    return _child(function, lambda: _patch(at, None, torn=False))


def count(function: Callable[[], object], until: Callable[[object], bool]) -> int:
    """How many writing system calls `function` makes before the first on a path that `until` says yes to, or in all."""
    read, write = os.pipe()
    with os.fdopen(read) as said:
        assert _child(function, lambda: _count_to(write, until)) == 0
        os.close(write)
        lines = said.read().splitlines()
    return next((number for number, line in enumerate(lines, 1) if line == "yes"), len(lines))


def _count_to(fd: int, until: Callable[[object], bool]) -> None:
    real_write = os.write

    def note(args: tuple[object, ...]) -> None:
        real_write(fd, b"yes\n" if args and isinstance(args[0], (str, os.PathLike)) and until(args[0]) else b"no\n")

    _wrap(note)


def _wrap(before: Callable[[tuple], None]) -> None:
    def wrap(name: str, real: Callable) -> Callable:
        def wrapped(*args, **kwargs):
            if name != "open" or args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                before(args)
            return real(*args, **kwargs)

        return wrapped

    for name in WRITES:
        setattr(os, name, wrap(name, getattr(os, name)))


def _child(function: Callable[[], object], prepare: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            prepare()
            function()
            code = 0
        except BaseException as exc:
            code = getattr(exc, "exit_code", 98)
            if code == 98:
                traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return -os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _patch(at: int, die: Callable[[], None] | None, *, torn: bool) -> None:
    count = 0

    def wrap(name: str, real: Callable) -> Callable:
        def wrapped(*args, **kwargs):
            nonlocal count
            if name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return real(*args, **kwargs)
            count += 1
            if count < at:
                return real(*args, **kwargs)
            if die is None:
                if name in _SPACE:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(*args, **kwargs)
            if torn and name == "write":
                real(args[0], bytes(args[1])[: len(args[1]) // 2])
            elif torn:
                real(*args, **kwargs)
            return die()

        return wrapped

    for name in WRITES:
        setattr(os, name, wrap(name, getattr(os, name)))
