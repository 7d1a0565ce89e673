"""How each tree on disk compares with its pin."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora_training import git_process
from lora_training.upstream import pins
from lora_training.workspace import Upstream, Workspace

# Python's caches, pristine copies of patched files, and the files of an installation in place.
_IGNORED = ("__pycache__", ".pyc", ".orig", ".egg-info")

State = Literal["missing", "clean", "patched", "drifted"]


@dataclass(frozen=True)
class Status:
    """One upstream as it is on disk.

    `source` is the address that a git tree came from, as git resolves it (a mirror shows), or an archive's name.
    `changed` holds the paths, relative to the tree, whose content is not the pinned one; untracked files count.
    """

    name: str
    path: Path
    url: str
    pin: str
    commit: str | None
    origin: str
    source: str | None
    changed: tuple[str, ...]

    @property
    def at_pin(self) -> bool:
        """Whether the tree is at the commit that we pin."""
        return self.commit == self.pin

    def state(self, patched: Collection[str]) -> State:
        """In one word, given the paths that our patches have changed here as they should."""
        if self.commit is None:
            return "missing"
        if not self.changed:
            return "clean"
        return "patched" if set(self.changed) <= set(patched) else "drifted"


def read(workspace: Workspace, name: str) -> Status:
    """The status of one upstream. Raises UpstreamError when it has no pin."""
    upstream = workspace.upstream(name)
    head = pins.head(upstream)
    return Status(
        name=name,
        path=upstream.path,
        url=upstream.url,
        pin=pins.pin(workspace, name),
        commit=head.commit,
        origin=head.origin,
        source=_source(upstream, head),
        changed=changes(upstream, head),
    )


def changes(upstream: Upstream, head: pins.Head) -> tuple[str, ...]:
    """The paths of a tree that differ from the commit it is at."""
    if head.commit is None:
        return ()
    return _git_changes(upstream.path) if head.origin == "git" else _manifest_changes(upstream.path)


def _git_changes(tree: Path) -> tuple[str, ...]:
    # no other repository inside is looked into: it has a configuration of its own
    flags = ("--porcelain", "-z", "--no-renames", "--untracked-files=all", "--ignore-submodules=dirty")
    out = git_process.run(tree, "status", *flags)
    return tuple(sorted(entry[3:] for entry in out.split("\0") if entry))


def _manifest_changes(tree: Path) -> tuple[str, ...]:
    files: dict[str, str] = (pins.marker(tree) or {"files": {}})["files"]
    changed = {path for path, digest in files.items() if _digest(tree / path) != digest}
    return tuple(sorted(changed.union(path for path in _files(tree) if path not in files and path != pins.MARKER)))


def _files(tree: Path) -> Iterator[str]:
    """Every file but those that nobody takes for edits, where no repository says which these are."""
    for folder, folders, files in os.walk(tree):
        folders[:] = [name for name in folders if not name.endswith(_IGNORED)]
        base = os.path.relpath(folder, tree)
        yield from (os.path.normpath(f"{base}/{name}") for name in files if not name.endswith(_IGNORED))


def _digest(path: Path) -> str | None:
    try:
        # a device or a pipe might never end
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    except (FileNotFoundError, NotADirectoryError):
        return None


def manifest(tree: Path) -> dict[str, str]:
    """The sha256 of every file below `tree`, by its path relative to it."""
    files = (path for path in sorted(tree.rglob("*")) if path.is_file())
    return {path.relative_to(tree).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _source(upstream: Upstream, head: pins.Head) -> str | None:
    if head.origin in {"sdist", "sealed"}:
        return str((pins.marker(upstream.path) or {}).get("archive"))
    if head.origin == "git" and head.commit:
        return git_process.run(upstream.path, "ls-remote", "--get-url", "origin").strip()
    return None
