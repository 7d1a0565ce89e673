"""The pin of each upstream, the commit and origin of its tree on disk, and the files that differ from that."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from lora_training import git_process
from lora_training.errors import UpstreamError
from lora_training.workspace import Upstream, Workspace

# Lies in a tree that came from a source archive or was sealed, where a repository would have `.git`.
MARKER = ".lora-upstream.json"
# Python's caches, pristine copies of patched files, and the files of an installation in place.
_IGNORED = ("__pycache__", ".pyc", ".orig", ".egg-info")

State = Literal["missing", "clean", "patched", "drifted"]


@dataclass(frozen=True)
class Head:
    """The commit and origin of a tree on disk.

    `commit` is a full SHA-1, or None when the folder is missing, empty or of unknown origin.
    `origin` is "git", "sdist", "sealed" (from git, without its repository: in a container image) or "none".
    """

    commit: str | None
    origin: str


@dataclass(frozen=True)
class Sdist:
    """The source archive of a release on the package index: the same content as `commit`, file for file.

    `requirement` is pip's, such as `transformers==4.57.6`; `sha256` is the archive's.
    """

    commit: str
    requirement: str
    sha256: str


def pin(workspace: Workspace, name: str) -> str:
    """The commit that upstream `name` is pinned to: the submodule's gitlink.

    Where there is no repository around us, as in a container image, `patches.lock` says it.
    Raises UpstreamError when neither knows.
    """
    upstream = workspace.upstream(name)
    if (workspace.root / ".git").exists():
        found = git_process.gitlink(workspace.root, upstream.path.relative_to(workspace.root).as_posix())
    else:
        found = _lock(workspace, name).get("commit") or None
    if found is None:
        raise UpstreamError(
            f"{name} has no pin", hint=f"neither a gitlink at {upstream.path} nor patches.lock names one"
        )
    return found


def patched_paths(workspace: Workspace, name: str) -> frozenset[str]:
    """The files of upstream `name` that our patches touch, as `patches.lock` has it."""
    return frozenset(unquote(path, errors="surrogateescape") for path in _lock(workspace, name).get("pristine", ()))


def _lock(workspace: Workspace, name: str) -> dict[str, Any]:
    try:
        document = _toml(workspace.patches / "patches.lock")
        found: dict[str, Any] = document.get("upstreams", {}).get(name, {})
        return {"commit": str(found.get("commit") or ""), "pristine": dict(found.get("pristine", {}))}
    except FileNotFoundError:
        return {}
    except (AttributeError, RecursionError, TypeError, ValueError) as exc:
        path = workspace.patches / "patches.lock"
        hint = f"restore it: git checkout -- {path.name}, in {path.parent}"
        raise UpstreamError(f"{path} is damaged: {exc}", hint=hint) from exc


def sdist(workspace: Workspace, name: str) -> Sdist | None:
    """The source archive that may stand in for upstream `name` at its pin, if `third_party/sdists.toml` has one."""
    path = workspace.root / "third_party" / "sdists.toml"
    if not path.exists():
        return None
    try:
        entry = _toml(path).get(name)
        return Sdist(**entry) if entry else None
    except (RecursionError, TypeError, ValueError) as exc:
        raise UpstreamError(f"{path} is damaged: {exc}", hint="restore it from git") from exc


def _toml(path: Path) -> dict[str, Any]:
    # only where it is needed: reading a pin takes place in every patch command
    from lora_training import tomls

    return tomls.loads(path.read_text(encoding="utf-8"))


def head(upstream: Upstream) -> Head:
    """Return the commit and origin of the tree on disk."""
    if (upstream.path / ".git").exists():
        return Head(git_process.head(upstream.path), "git")
    found = marker(upstream.path)
    return Head(found["commit"], found.get("origin", "sdist")) if found else Head(None, "none")


def manifest(tree: Path) -> dict[str, str]:
    """The sha256 of every pristine file of a tree without a repository."""
    files: dict[str, str] = (marker(tree) or {"files": {}})["files"]
    return files


def marker(tree: Path) -> dict[str, Any] | None:
    """Return the content of the marker of a tree without a repository; None when it is missing or invalid."""
    try:
        found: dict[str, Any] = json.loads((tree / MARKER).read_text(encoding="utf-8"))
        words = (found["commit"], found.get("origin", "sdist"), *found["files"].values())
        is_sound = all(isinstance(word, str) for word in words) and all(map(_is_inside, found["files"]))
    except (AttributeError, OSError, RecursionError, ValueError, KeyError, TypeError):
        return None
    return found if is_sound and found["files"] else None


def _is_inside(path: str) -> bool:
    return not path.startswith("/") and "/../" not in f"/{path}/" and "\0" not in path


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


def status(workspace: Workspace, name: str) -> Status:
    """The status of one upstream. Raises UpstreamError when it has no pin."""
    upstream = workspace.upstream(name)
    at = head(upstream)
    return Status(
        name=name,
        path=upstream.path,
        url=upstream.url,
        pin=pin(workspace, name),
        commit=at.commit,
        origin=at.origin,
        source=_source(upstream, at),
        changed=changes(upstream, at),
    )


def changes(upstream: Upstream, at: Head) -> tuple[str, ...]:
    """The paths of a tree that differ from the commit it is at."""
    if at.commit is None:
        return ()
    return _git_changes(upstream.path) if at.origin == "git" else _manifest_changes(upstream.path)


def _git_changes(tree: Path) -> tuple[str, ...]:
    # no other repository inside is looked into: it has a configuration of its own
    flags = ("--porcelain", "-z", "--no-renames", "--untracked-files=all", "--ignore-submodules=dirty")
    out = git_process.run(tree, "status", *flags)
    return tuple(sorted(entry[3:] for entry in out.split("\0") if entry))


def _manifest_changes(tree: Path) -> tuple[str, ...]:
    files = manifest(tree)
    changed = {path for path, digest in files.items() if _digest(tree / path) != digest}
    return tuple(sorted(changed.union(path for path in _files(tree) if path not in files and path != MARKER)))


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


def digests(tree: Path) -> dict[str, str]:
    """The sha256 of every file below `tree`, by its path relative to it."""
    files = (path for path in sorted(tree.rglob("*")) if path.is_file())
    return {path.relative_to(tree).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _source(upstream: Upstream, at: Head) -> str | None:
    if at.origin in {"sdist", "sealed"}:
        return str((marker(upstream.path) or {}).get("archive"))
    if at.origin == "git" and at.commit:
        return git_process.run(upstream.path, "ls-remote", "--get-url", "origin").strip()
    return None
