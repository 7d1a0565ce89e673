"""One command at a time on a tree: `flock` on a folder, so that there is no lock file to leave behind."""

from __future__ import annotations

import fcntl
import os
import re
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lora_training.errors import PatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAIT_S = 10.0
# so soon somebody wonders whether anything happens at all
SAY_AFTER_S = 1.0
_POLL_S = 0.02
_LOCK_LINE = re.compile(r"^\d+: FLOCK +\S+ +(?:READ|WRITE) +(\d+) [0-9a-f]+:[0-9a-f]+:(\d+) ")

_listeners: list[Callable[[str], None]] = []


def on_wait(say: Callable[[str], None]) -> None:
    """From now on, hand `say` a line when a command has to wait for another one; in place of who was told before."""
    _listeners[:] = [say]


@contextmanager
def exclusive(folder: Path, *, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold `folder` alone. Waits for others up to `wait_s`; then raises PatchError, naming who holds it."""
    with _held(folder, fcntl.LOCK_EX, wait_s):
        yield


@contextmanager
def shared(folder: Path, *, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold `folder` together with other readers: as long as this is held, no command changes the trees."""
    with _held(folder, fcntl.LOCK_SH, wait_s):
        yield


@contextmanager
def _held(folder: Path, kind: int, wait_s: float) -> Iterator[None]:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise PatchError(f"cannot open {folder}: {exc.strerror}") from exc
    try:
        _wait(fd, kind, folder, wait_s)
        yield
    finally:
        os.close(fd)


def _wait(fd: int, kind: int, folder: Path, wait_s: float) -> None:
    began = time.monotonic()
    untold = list(_listeners)
    while not _try(fd, kind):
        waited = time.monotonic() - began
        if waited >= wait_s:
            raise PatchError(f"{folder} is in use by {_who(fd)}", hint="run this again when that has ended")
        while untold and waited >= SAY_AFTER_S:
            untold.pop()(f"waiting up to {wait_s:.0f} seconds for {_who(fd)}")
        time.sleep(_POLL_S)


def _try(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _who(fd: int) -> str:
    return "; ".join(_describe(pid) for pid in _holders(os.fstat(fd).st_ino)) or "another process"


def _holders(inode: int) -> list[int]:
    """Which processes hold a lock on that file, as far as the system tells (Linux does)."""
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    found = (_LOCK_LINE.match(line) for line in lines)
    return [int(match[1]) for match in found if match and int(match[2]) == inode]


def _describe(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({' '.join(words).strip()[:120]})"
