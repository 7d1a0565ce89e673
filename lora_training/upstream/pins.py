"""What each upstream should be (its pin) and what the tree on disk is (its head)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_training.errors import UpstreamError
from lora_training.upstream import gitindex

if TYPE_CHECKING:
    from pathlib import Path

    from lora_training.workspace import Upstream, Workspace

# Lies in a tree that came from a source archive or was sealed, where a repository would have `.git`.
MARKER = ".lora-upstream.json"
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
# How many names may lead to each other, from HEAD to a commit; git's own limit.
_DEPTH = 5


@dataclass(frozen=True)
class Head:
    """What a tree on disk is.

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
    found = _gitlink(workspace, upstream) if (workspace.root / ".git").exists() else _locked(workspace, name)
    if found is None:
        raise UpstreamError(
            f"{name} has no pin", hint=f"neither a gitlink at {upstream.path} nor patches.lock names one"
        )
    return found


def _gitlink(workspace: Workspace, upstream: Upstream) -> str | None:
    relative = upstream.path.relative_to(workspace.root).as_posix()
    folder = _git_folder(workspace.root)
    known = gitindex.gitlinks(folder / "index") if folder else None
    if known is not None:
        return known.get(relative)
    from lora_training.git import git

    fields = git("ls-files", "--stage", "--", relative, cwd=workspace.root).split()
    return fields[1] if fields and fields[0] == "160000" else None


def _locked(workspace: Workspace, name: str) -> str | None:
    commit = _lock(workspace, name).get("commit")
    return str(commit) if commit else None


def patched_paths(workspace: Workspace, name: str) -> frozenset[str]:
    """The files of upstream `name` that our patches touch, as `patches.lock` has it."""
    return frozenset(_lock(workspace, name).get("pristine", ()))


def _lock(workspace: Workspace, name: str) -> dict[str, Any]:
    try:
        document = _toml(workspace.patches / "patches.lock")
    except FileNotFoundError:
        return {}
    found: dict[str, Any] = document.get("upstreams", {}).get(name, {})
    return found


def sdist(workspace: Workspace, name: str) -> Sdist | None:
    """The source archive that may stand in for upstream `name` at its pin, if `third_party/sdists.toml` has one."""
    path = workspace.root / "third_party" / "sdists.toml"
    if not path.exists():
        return None
    entry = _toml(path).get(name)
    return Sdist(**entry) if entry else None


def _toml(path: Path) -> dict[str, Any]:
    # only where it is needed: reading a pin takes place in every patch command
    from lora_training import tomls

    return tomls.loads(path.read_text(encoding="utf-8"))


def head(upstream: Upstream) -> Head:
    """What the tree on disk is, read from its files alone: no git process is started."""
    folder = _git_folder(upstream.path)
    if folder is not None:
        return Head(_resolve(folder, "HEAD"), "git")
    try:
        marker = json.loads((upstream.path / MARKER).read_text(encoding="utf-8"))
        return Head(str(marker["commit"]), marker.get("origin", "sdist")) if marker["files"] else Head(None, "none")
    except (OSError, ValueError, KeyError, TypeError):
        # a marker that cannot be read is as good as none
        return Head(None, "none")


def manifest(upstream: Upstream) -> dict[str, str]:
    """The sha256 of every pristine file of a tree without a repository."""
    files: dict[str, str] = json.loads((upstream.path / MARKER).read_text(encoding="utf-8"))["files"]
    return files


def _git_folder(tree: Path) -> Path | None:
    """The repository's folder: `.git` itself, or what the file `.git` of a submodule points to."""
    dot_git = tree / ".git"
    if dot_git.is_dir():
        return dot_git
    try:
        text = dot_git.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (tree / text.removeprefix("gitdir:").strip()).resolve()


def _resolve(folder: Path, ref: str, depth: int = 0) -> str | None:
    """The commit that a name leads to; None for a damaged repository, and for names that lead to each other."""
    try:
        text = (folder / ref).read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return _packed(folder, ref)
    except (OSError, ValueError):
        return None
    if text.startswith("ref:") and depth < _DEPTH:
        return _resolve(folder, text.removeprefix("ref:").strip(), depth + 1)
    return text if _COMMIT.fullmatch(text) else None


def _packed(folder: Path, ref: str) -> str | None:
    try:
        lines = (folder / "packed-refs").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    return next((line.split(" ", 1)[0] for line in lines if line.endswith(" " + ref)), None)
