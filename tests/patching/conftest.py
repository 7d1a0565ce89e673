from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.helpers import git

Tree = dict[str, tuple[str, bytes]]


def tree_of(root: Path, *, without: tuple[str, ...] = (".git", ".lora-patch")) -> Tree:
    """Everything below `root`: kind and permissions, and content; folders too, so that leftovers show."""
    found: Tree = {}
    for base, folders, files in os.walk(os.fsencode(root)):
        if base == os.fsencode(root):
            folders[:] = [folder for folder in folders if os.fsdecode(folder) not in without]
        for name in [*folders, *files]:
            path = os.path.join(base, name)
            relative = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
            found[relative] = _entry(path)
    return found


def _entry(path: bytes) -> tuple[str, bytes]:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return "link", os.readlink(path)
    if stat.S_ISDIR(status.st_mode):
        return "folder", b""
    with open(path, "rb") as file:
        return oct(stat.S_IMODE(status.st_mode)), file.read()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    made.mkdir()
    return made


def git_diff(before: Path, *args: str) -> bytes:
    """What `git add -A; git diff --cached` says in a repository."""
    git("add", "-A", cwd=before)
    return diff_bytes(before, "--cached", *args)


def diff_bytes(repo: Path, *args: str) -> bytes:
    import subprocess

    argv = ["git", "diff", "--binary", "--full-index", "--no-color", *args]
    return subprocess.run(argv, cwd=repo, check=True, capture_output=True).stdout
