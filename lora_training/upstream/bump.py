"""Check out another commit of an upstream in a scratch worktree, and update git's files once the tree has moved."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_training import git_process, proc
from lora_training.errors import UpstreamError
from lora_training.upstream import pins, sync
from lora_training.workspace import Upstream, Workspace

# A hash or an expression such as HEAD~1: no branch of the remote's can have that name.
_LOCAL = re.compile(r"HEAD|[0-9a-f]{7,64}|.*(?:[~^:]|@\{).*")


@dataclass(frozen=True)
class Rehearsal:
    """A commit checked out in a scratch worktree: `tree` is its folder, `paths` are all its files.

    `root` has the layout of this project's checkout: the tree has the same relative path.
    """

    commit: str
    root: Path
    tree: Path
    paths: tuple[str, ...]


@contextlib.contextmanager
def scratch(workspace: Workspace, upstream: Upstream, ref: str) -> Iterator[Rehearsal]:
    """Check out `ref` of an upstream in a worktree that is removed afterwards; the real tree is not touched.

    Raises UpstreamError when the tree is no repository, or neither it nor its remote knows `ref`.
    """
    if pins.head(upstream).origin != "git":
        raise UpstreamError(
            f"{upstream.name} is not a git checkout, so it has no other commits to look at",
            hint="`lora upstream sync` brings one where its git host can be reached; see README, Mirrors",
        )
    with sync.lock(workspace):
        commit = resolve(upstream, ref)
        root = workspace.state / "bump"
        tree = root / upstream.path.relative_to(workspace.root)
        try:
            _clear(upstream, root)
            added = ("add", "--quiet", "--no-checkout", "--detach", str(tree), commit)
            git_process.run(upstream.path, "worktree", *added)
            _check_out(workspace, upstream, tree)
            yield Rehearsal(commit, root, tree, files(tree))
        finally:
            _clear(upstream, root)


def _clear(upstream: Upstream, root: Path) -> None:
    """Remove the scratch worktree, also one that a killed process left."""
    shutil.rmtree(root, ignore_errors=True)
    git_process.run(upstream.path, "worktree", "prune")


def files(tree: Path) -> tuple[str, ...]:
    """Return the files of a tree's commit that are checked out."""
    listed = git_process.run(tree, "ls-files", "-z").split("\0")
    return tuple(path for path in listed if path and os.path.lexists(tree / path))


def _check_out(workspace: Workspace, upstream: Upstream, tree: Path) -> None:
    """Check out as much of the commit as a sync would: a mirror may have no more of it."""
    patterns = sync.patterns(workspace, upstream)
    try:
        chosen = _git_path(tree, "info/sparse-checkout")
        chosen.parent.mkdir(parents=True, exist_ok=True)
        chosen.write_text("\n".join(patterns) + "\n", encoding="utf-8")
        git_process.run(tree, "-c", "core.sparseCheckout=true", "read-tree", "-mu", "HEAD")
    except proc.ProcError as failure:
        raise UpstreamError(
            f"cannot check out {upstream.name} at that commit; git says:\n{failure.hint}",
            hint="a mirror that lacks a file is told so: git config --global --add lora.exclude THE/FILE",
        ) from failure


def resolve(upstream: Upstream, ref: str) -> str:
    """Return the commit that `ref` names: a local commit or tag, else a branch as its remote has it now.

    Raises UpstreamError when nothing has that name.
    """
    if ref.startswith("-"):
        raise UpstreamError(f"{ref!r} names no commit")
    names = [f"refs/tags/{ref}", *([ref] if _LOCAL.fullmatch(ref) else [])]
    return _local(upstream, *names) or _fetched(upstream, ref)


def _local(upstream: Upstream, *names: str) -> str | None:
    flags = ("--verify", "--quiet")
    found = (
        git_process.run(upstream.path, "rev-parse", *flags, f"{name}^{{commit}}", allowed=(0, 1, 128)).strip()
        for name in names
    )
    return next(filter(None, found), None)


def _fetched(upstream: Upstream, ref: str) -> str:
    try:
        git_process.run(upstream.path, "fetch", "--quiet", "--depth=1", "--no-tags", "origin", ref)
        return git_process.run(upstream.path, "rev-parse", "--verify", "FETCH_HEAD^{commit}").strip()
    except proc.ProcError as failure:
        # a branch that only this repository has
        is_own = "couldn't find remote ref" in failure.completed.stderr
        found = _local(upstream, f"refs/heads/{ref}", f"refs/remotes/{ref}") if is_own else None
        if found:
            return found
        raise UpstreamError(
            f"{upstream.name} has no {ref}; git says:\n{failure.hint}", hint="name a commit, tag or branch of it"
        ) from failure


def uncommitted(workspace: Workspace, upstream: Upstream, *paths: str) -> list[str]:
    """Return which of those paths of this project's repository, and of the pin, have uncommitted changes."""
    flags = ("--porcelain", "-z", "-uall", "--ignore-submodules=dirty", "--")
    link = upstream.path.relative_to(workspace.root).as_posix()
    listed = git_process.run(workspace.root, "status", *flags, link, *paths)
    return [entry[3:] for entry in listed.split("\0") if entry]


def index_of(tree: Path) -> Path:
    """Return the path of a repository's index."""
    return _git_path(tree, "index")


def _git_path(tree: Path, name: str) -> Path:
    return tree / git_process.run(tree, "rev-parse", "--git-path", name).removesuffix("\n")


def settle(workspace: Workspace, upstream: Upstream, commit: str, index: Path, *paths: str) -> None:
    """Set an upstream's HEAD and index to those of `commit`, whose index is `index`; pin it and stage `paths`.

    Each file of git's is written beside its place and renamed; all of it can be done again.
    """
    with _new_index(upstream.path, index) as env:
        # a code of 1 says that files differ from the commit
        git_process.run(upstream.path, "update-index", "-q", "--refresh", allowed=(0, 1), env=env)
    head = _git_path(upstream.path, "HEAD")
    draft = head.with_name("HEAD.lora")
    draft.write_bytes(f"{commit}\n".encode())
    draft.replace(head)
    link = upstream.path.relative_to(workspace.root).as_posix()
    with _new_index(workspace.root, index_of(workspace.root)) as env:
        git_process.run(workspace.root, "update-index", "--cacheinfo", f"160000,{commit},{link}", env=env)
        git_process.run(workspace.root, "add", "--all", "--", *paths, env=env)


@contextlib.contextmanager
def _new_index(tree: Path, start: Path) -> Iterator[dict[str, str]]:
    """Copy the index `start`, yield the variable that makes git use the copy, and make that the tree's index."""
    place = index_of(tree)
    new = place.with_name("index.lora")
    # left by a git that was killed
    new.with_name("index.lora.lock").unlink(missing_ok=True)
    shutil.copyfile(start, new)
    yield {"GIT_INDEX_FILE": str(new)}
    new.replace(place)
