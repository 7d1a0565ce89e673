"""git's three-way merge of one file."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lora_training import proc, repositories

# What `git merge-file` exits with: the number of conflicts, at most 127, or an error above that.
_CONFLICTS = 127


def merge(ours: bytes, base: bytes, theirs: bytes) -> bytes | None:
    """`ours` with what leads from `base` to `theirs`, or None when that conflicts (or one of them is no text)."""
    if any(b"\0" in side for side in (ours, base, theirs)):
        return None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, data in (("ours", ours), ("base", base), ("theirs", theirs)):
            (folder / name).write_bytes(data)
        try:
            with repositories.commands(folder) as git:
                merged: bytes = git.merge_file("-p", "-q", "ours", "base", "theirs", **repositories.RAW)
        except proc.ProcError as exc:
            if exc.completed.returncode > _CONFLICTS:
                raise
            return None
    return merged
