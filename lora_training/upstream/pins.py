"""The pin of each upstream, and the commit and origin of its tree on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_training import git_process
from lora_training.errors import UpstreamError
from lora_training.workspace import Upstream, Workspace

# Lies in a tree that came from a source archive or was sealed, where a repository would have `.git`.
MARKER = ".lora-upstream.json"


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
    return frozenset(_lock(workspace, name).get("pristine", ()))


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


def manifest(upstream: Upstream) -> dict[str, str]:
    """The sha256 of every pristine file of a tree without a repository."""
    files: dict[str, str] = (marker(upstream.path) or {"files": {}})["files"]
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
