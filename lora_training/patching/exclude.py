"""Keeping our pristine copies out of an upstream's `git status`, by git's own private exclude file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_training.patching import fs

if TYPE_CHECKING:
    from pathlib import Path

_LINES = "# pristine copies, kept by `lora patch`\n*.orig\n"


def copies(root: Path) -> None:
    """See to it that git ignores `*.orig` in the tree at `root`; nothing to do where there is no git."""
    folder = _common(git_folder(root))
    if folder is None:
        return
    path = folder / "info" / "exclude"
    there = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
    if "*.orig" in there.splitlines():
        return
    fs.make_folder(str(path.parent))
    gap = "" if there.endswith("\n") or not there else "\n"
    fs.replace_file(path, f"{there}{gap}{_LINES}".encode("utf-8", "surrogateescape"))


def git_folder(root: Path) -> Path | None:
    """The repository's own folder: `.git`, or where a submodule's or worktree's `.git` file points."""
    dot_git = root / ".git"
    if dot_git.is_file():
        pointer = dot_git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        dot_git = root / pointer
    return dot_git if dot_git.is_dir() else None


def _common(folder: Path | None) -> Path | None:
    """A worktree shares the exclude file with its repository."""
    if folder is None or not (folder / "commondir").is_file():
        return folder
    return folder / (folder / "commondir").read_text(encoding="utf-8").strip()
