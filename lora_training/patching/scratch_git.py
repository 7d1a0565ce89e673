"""Diff and merge files with git, in a scratch folder."""

from __future__ import annotations

import tempfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from gitdb import IStream

from lora_training import proc, repositories
from lora_training.patching.names import raw

if TYPE_CHECKING:
    from lora_training.patching.model import Image, Node
    from lora_training.repositories import Repo

# The diff must not depend on the user's own settings.
_SETTINGS = {
    "core.autocrlf": "false",
    "core.safecrlf": "false",
    "core.fileMode": "true",
    "core.symlinks": "true",
    "core.quotePath": "true",
    "core.attributesFile": "/dev/null",
    "core.excludesFile": "/dev/null",
    "diff.noprefix": "false",
    "diff.mnemonicPrefix": "false",
    "diff.algorithm": "myers",
    "diff.context": "3",
}
# Without renames, which quilt and older versions of patch do not support.
_DIFF = ("--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames")
# `git merge-file` exits with the number of conflicts, at most 127; higher codes are errors.
_CONFLICTS = 127


def diff(before: Image, after: Image) -> bytes:
    """The git diff between two states of files; empty when they are the same."""
    with tempfile.TemporaryDirectory() as scratch, repositories.created(Path(scratch), "--template=") as repo:
        trees = [_tree(repo, image) for image in (before, after)]
        settings = [f"{key}={value}" for key, value in _SETTINGS.items()]
        difference: bytes = repo.git(c=settings).diff(*_DIFF, *trees, **repositories.RAW)
        return difference


def _tree(repo: Repo, image: Image) -> str:
    """Put exactly these files into the index; return the id of its tree."""
    repo.git.read_tree("--empty")
    with tempfile.TemporaryFile() as rows:
        rows.writelines(_row(repo, path, node) for path, node in image.items() if node and not node.is_folder)
        rows.seek(0)
        repo.git.update_index("-z", "--index-info", istream=rows)
    return str(repo.git.write_tree())


def _row(repo: Repo, path: str, node: Node) -> bytes:
    blob = repo.odb.store(IStream("blob", len(node.data), BytesIO(node.data))).hexsha.decode()
    return raw(f"{node.mode:06o} {blob}\t{path}\0")


def merge(ours: bytes, base: bytes, theirs: bytes) -> bytes | None:
    """Merge three versions of a file; None when they conflict, or when one of them is binary."""
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
