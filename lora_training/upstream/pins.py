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
        found: dict[str, Any] = document.get("upstreams", {}).get(name, {})
        return {"commit": found.get("commit"), "pristine": dict(found.get("pristine", {}))}
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
    """What the tree on disk is, read from its files alone: no git process is started."""
    folder = _git_folder(upstream.path)
    if folder is not None:
        return Head(_resolve(folder, "HEAD"), "git")
    found = marker(upstream.path)
    return Head(found["commit"], found.get("origin", "sdist")) if found else Head(None, "none")


def manifest(upstream: Upstream) -> dict[str, str]:
    """The sha256 of every pristine file of a tree without a repository."""
    files: dict[str, str] = (marker(upstream.path) or {"files": {}})["files"]
    return files


def marker(tree: Path) -> dict[str, Any] | None:
    """What the marker of a tree without a repository says; None when there is none that makes sense."""
    try:
        found: dict[str, Any] = json.loads((tree / MARKER).read_text(encoding="utf-8"))
        words = (found["commit"], found.get("origin", "sdist"), *found["files"].values())
        is_sound = all(isinstance(word, str) for word in words) and all(map(_is_inside, found["files"]))
    except (AttributeError, OSError, RecursionError, ValueError, KeyError, TypeError):
        return None
    return found if is_sound and found["files"] else None


def _is_inside(path: str) -> bool:
    return not path.startswith("/") and "/../" not in f"/{path}/" and "\0" not in path


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
