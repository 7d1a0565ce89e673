"""Errors of the operating system as one sentence, for those that no other module has handled."""

from __future__ import annotations

import errno

_PERMISSIONS = "mend its permissions, or be its owner"
_HINTS = {
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.EROFS: "what is there can only be read: choose another place",
    errno.ENOSPC: "make room there, or choose another place",
    errno.EDQUOT: "make room there, or choose another place",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EISDIR: "a folder is where a file should be: take it away, or choose another place",
    errno.ENOTDIR: "a file is where a folder should be: take it away, or choose another place",
    errno.EEXIST: "something else is there: take it away, or choose another place",
    errno.ENOENT: "it was not there, or has just been taken away",
    errno.EIO: "the disk or what it is mounted from fails: look at the system's log",
    errno.EMFILE: "raise the number of open files: `ulimit -n`",
}
_WRITING = frozenset({errno.EROFS, errno.ENOSPC, errno.EDQUOT})


def sentence(exc: OSError) -> tuple[str, str | None]:
    """Return what could not be done, and a hint where there is one."""
    hint = _HINTS.get(exc.errno or 0)
    if not exc.strerror:
        return str(exc) or type(exc).__name__, hint
    path = exc.filename.decode(errors="replace") if isinstance(exc.filename, bytes) else exc.filename
    if not isinstance(path, str):
        return exc.strerror, hint
    return f"cannot {'write' if exc.errno in _WRITING else 'use'} {path}: {exc.strerror}", hint
