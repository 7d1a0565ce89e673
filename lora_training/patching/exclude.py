"""Keeping our pristine copies out of an upstream's `git status`, by git's own private exclude file."""

from __future__ import annotations

from pathlib import Path

from lora_training.patching import fs

_LINES = "# pristine copies, kept by `lora patch`\n*.orig\n"


def copies(root: Path) -> None:
    """See to it that git ignores `*.orig` in the tree at `root`; nothing to do where there is no git."""
    if not (root / ".git").exists():
        return
    from lora_training import repositories

    # a worktree shares the file with its repository
    with repositories.opened(root) as repo:
        path = Path(repo.common_dir) / "info" / "exclude"
    there = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
    if "*.orig" in there.splitlines():
        return
    fs.make_folder(str(path.parent))
    gap = "" if there.endswith("\n") or not there else "\n"
    fs.replace_file(path, f"{there}{gap}{_LINES}".encode("utf-8", "surrogateescape"))
