"""git's three-way merge of one file."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lora_training import git
from lora_training.patching.names import raw

# What `git merge-file` exits with: the number of conflicts, at most 127, or an error above that.
_CONFLICTS = range(128)


def merge(ours: bytes, base: bytes, theirs: bytes) -> bytes | None:
    """`ours` with what leads from `base` to `theirs`, or None when that conflicts (or one of them is no text)."""
    if any(b"\0" in side for side in (ours, base, theirs)):
        return None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, data in (("ours", ours), ("base", base), ("theirs", theirs)):
            (folder / name).write_bytes(data)
        merged = raw(git.git("merge-file", "-p", "-q", "ours", "base", "theirs", cwd=folder, allowed=_CONFLICTS))
    return None if b"<<<<<<< ours\n" in merged or b">>>>>>> theirs" in merged else merged
