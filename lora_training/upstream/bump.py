"""Another commit of an upstream, beside the tree that is there; and the move to it."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_training import git, proc
from lora_training.errors import UpstreamError
from lora_training.upstream import fetch, pins

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lora_training.workspace import Upstream, Workspace


@dataclass(frozen=True)
class Rehearsal:
    """A commit checked out in a scratch worktree: `tree` is its folder, `paths` are all its files."""

    commit: str
    tree: Path
    paths: tuple[str, ...]


@contextlib.contextmanager
def scratch(workspace: Workspace, upstream: Upstream, ref: str) -> Iterator[Rehearsal]:
    """`ref` of an upstream in a worktree that is gone afterwards; the real tree is not touched.

    Raises UpstreamError when the tree is no repository, or neither it nor its remote knows `ref`.
    """
    if pins.head(upstream).origin != "git":
        raise UpstreamError(
            f"{upstream.name} is not a git checkout, so it has no other commits to look at",
            hint="`lora upstream sync` brings one where its git host can be reached; see README, Mirrors",
        )
    commit = resolve(upstream, ref)
    (workspace.root / "third_party").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lora-bump-") as folder:
        tree = Path(folder) / upstream.name
        git.git("worktree", "add", "--quiet", "--no-checkout", "--detach", str(tree), commit, cwd=upstream.path)
        try:
            _check_out(workspace, upstream, tree)
            listed = git.git("ls-files", "-z", cwd=tree).split("\0")
            yield Rehearsal(commit, tree, tuple(path for path in listed if path and (tree / path).exists()))
        finally:
            git.git("worktree", "remove", "--force", str(tree), cwd=upstream.path)


def _check_out(workspace: Workspace, upstream: Upstream, tree: Path) -> None:
    """As much of the commit as a sync would bring: a mirror may have no more of it."""
    chosen = tree / git.git("rev-parse", "--git-path", "info/sparse-checkout", cwd=tree).strip()
    chosen.parent.mkdir(parents=True, exist_ok=True)
    chosen.write_text("\n".join(fetch.patterns(workspace, upstream)) + "\n", encoding="utf-8")
    try:
        git.git("-c", "core.sparseCheckout=true", "read-tree", "-mu", "HEAD", cwd=tree)
    except proc.ProcError as failure:
        raise UpstreamError(
            f"cannot check {upstream.name} out as it is to be; git says:\n{failure.hint}",
            hint="a mirror that lacks a file is told so: git config --global --add lora.exclude THE/FILE",
        ) from failure


def resolve(upstream: Upstream, ref: str) -> str:
    """The commit that `ref` (a commit, tag or branch) names, fetched when it is not there. Raises UpstreamError."""
    if ref.startswith("-"):
        raise UpstreamError(f"{ref!r} names no commit")
    for name in (ref, f"refs/tags/{ref}", f"refs/remotes/origin/{ref}"):
        with contextlib.suppress(proc.ProcError):
            return git.git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", cwd=upstream.path).strip()
    try:
        git.git("fetch", "--quiet", "--depth=1", "--no-tags", "origin", ref, cwd=upstream.path)
        return git.git("rev-parse", "--verify", "FETCH_HEAD^{commit}", cwd=upstream.path).strip()
    except proc.ProcError as failure:
        raise UpstreamError(
            f"{upstream.name} has no {ref}; git says:\n{failure.hint}", hint="name a commit, tag or branch of it"
        ) from failure


def move(workspace: Workspace, upstream: Upstream, commit: str) -> None:
    """Check `commit` out in the real tree and pin it: the gitlink in the index, for the user to commit.

    Raises UpstreamError when git refuses, as it does where a file was changed; both are then as they were.
    """
    before = pins.head(upstream).commit
    try:
        git.git("checkout", "--quiet", "--detach", commit, cwd=upstream.path)
        _pin(workspace, upstream, commit)
    except proc.ProcError as failure:
        if before:
            git.git("checkout", "--quiet", "--detach", before, cwd=upstream.path)
        raise UpstreamError(f"{upstream.name} cannot be moved to {commit[:12]}", hint=failure.hint) from failure


def _pin(workspace: Workspace, upstream: Upstream, commit: str) -> None:
    path = upstream.path.relative_to(workspace.root).as_posix()
    git.git("update-index", "--cacheinfo", f"160000,{commit},{path}", cwd=workspace.root)
