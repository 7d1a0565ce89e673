"""Locks by `flock`, which are released when their process ends: on an open file, or on a folder without a lock file."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lora_training.errors import ConfigError, LoraError

WAIT_S = 10.0
# A wait that is longer than this is reported.
SAY_AFTER_S = 1.0
_POLL_S = 0.02
_LOCK_LINE = re.compile(r"^\d+: FLOCK +\S+ +(?:READ|WRITE) +(\d+) [0-9a-f]+:[0-9a-f]+:(\d+) ")

_listeners: list[Callable[[str], None]] = []


def on_wait(say: Callable[[str], None]) -> None:
    """Call `say` with one line whenever a lock has to be waited for; this replaces an earlier `say`."""
    _listeners[:] = [say]


def acquire(fd: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file until it is closed; return False if another process holds it and `wait` is not set."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(fd, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def exclusive(
    folder: Path, *, wait_s: float = WAIT_S, name: Path | None = None, error: type[LoraError] = ConfigError
) -> Iterator[None]:
    """Hold `folder` exclusively. Raises `error`, with its `name` and holders, when it is not free after `wait_s`."""
    with _held(folder, wait_s, name or folder, error, shared=False):
        yield


@contextmanager
def shared(folder: Path, *, wait_s: float = WAIT_S, error: type[LoraError] = ConfigError) -> Iterator[None]:
    """Hold `folder` together with other readers, so that no command changes the trees. Raises as `exclusive`."""
    with _held(folder, wait_s, folder, error, shared=True):
        yield


@contextmanager
def _held(folder: Path, wait_s: float, name: Path, error: type[LoraError], *, shared: bool) -> Iterator[None]:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise error(f"cannot open {folder}: {exc.strerror}", hint="make it readable") from exc
    try:
        if not _waited(fd, wait_s, shared=shared):
            raise error(f"{name} is in use by {_holders(fd)}", hint="run this again when that has ended")
        yield
    finally:
        os.close(fd)


def _waited(fd: int, wait_s: float, *, shared: bool) -> bool:
    """Return whether an open file could be locked within `wait_s` seconds."""
    began = time.monotonic()
    untold = list(_listeners)
    while not acquire(fd, shared=shared):
        waited = time.monotonic() - began
        if waited >= wait_s:
            return False
        while untold and waited >= SAY_AFTER_S:
            untold.pop()(f"waiting up to {wait_s:.0f} seconds for {_holders(fd)}")
        time.sleep(_POLL_S)
    return True


def _holders(fd: int) -> str:
    """Describe the processes that hold the lock, for a message."""
    return "; ".join(_command_line(pid) for pid in _pids(os.fstat(fd).st_ino)) or "another process"


def _pids(inode: int) -> list[int]:
    """The ids of the processes that hold a lock on a file; none on a system without /proc/locks."""
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    found = (_LOCK_LINE.match(line) for line in lines)
    return [int(match[1]) for match in found if match and int(match[2]) == inode]


def _command_line(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({' '.join(words).strip()[:120]})"
