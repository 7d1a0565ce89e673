"""Another commit of an upstream, beside the tree that is there; what git is told once the tree has moved to it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_training import proc, repositories
from lora_training.errors import UpstreamError
from lora_training.upstream import fetch, pins, sync

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lora_training.repositories import Repo
    from lora_training.workspace import Upstream, Workspace

# A hash or an expression such as HEAD~1: no branch of the remote's can have that name.
_OF_HERE = re.compile(r"HEAD|[0-9a-f]{7,64}|.*(?:[~^:]|@\{).*")


@dataclass(frozen=True)
class Rehearsal:
    """A commit checked out in a scratch worktree: `tree` is its folder, `paths` are all its files.

    `root` is laid out as a checkout of ours is: the tree is where it is there.
    """

    commit: str
    root: Path
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
    with sync.lock(workspace):
        commit = resolve(upstream, ref)
        root = workspace.state / "bump"
        tree = root / upstream.path.relative_to(workspace.root)
        try:
            _clear(upstream, root)
            with repositories.opened(upstream.path) as repo:
                repo.git.worktree("add", "--quiet", "--no-checkout", "--detach", tree, commit)
            _check_out(workspace, upstream, tree)
            yield Rehearsal(commit, root, tree, files(tree))
        finally:
            _clear(upstream, root)


def _clear(upstream: Upstream, root: Path) -> None:
    """Leave nothing of a scratch worktree, not of one that was killed either."""
    shutil.rmtree(root, ignore_errors=True)
    with repositories.opened(upstream.path) as repo:
        repo.git.worktree("prune")


def files(tree: Path) -> tuple[str, ...]:
    """The files of a tree's commit that are checked out."""
    with repositories.opened(tree) as repo:
        listed = repo.git.ls_files("-z").split("\0")
    return tuple(path for path in listed if path and os.path.lexists(tree / path))


def _check_out(workspace: Workspace, upstream: Upstream, tree: Path) -> None:
    """As much of the commit as a sync would bring: a mirror may have no more of it."""
    patterns = fetch.patterns(workspace, upstream)
    try:
        with repositories.opened(tree) as repo:
            chosen = Path(repo.git_dir, "info", "sparse-checkout")
            chosen.parent.mkdir(parents=True, exist_ok=True)
            chosen.write_text("\n".join(patterns) + "\n", encoding="utf-8")
            repo.git(c="core.sparseCheckout=true").read_tree("-mu", "HEAD")
    except proc.ProcError as failure:
        raise UpstreamError(
            f"cannot check {upstream.name} out as it is to be; git says:\n{failure.hint}",
            hint="a mirror that lacks a file is told so: git config --global --add lora.exclude THE/FILE",
        ) from failure


def resolve(upstream: Upstream, ref: str) -> str:
    """Return the commit that `ref` names: a commit or tag that is here, else a branch as its remote has it now.

    Raises UpstreamError when nothing has that name.
    """
    if ref.startswith("-"):
        raise UpstreamError(f"{ref!r} names no commit")
    names = [f"refs/tags/{ref}", *([ref] if _OF_HERE.fullmatch(ref) else [])]
    return _here(upstream, *names) or _fetched(upstream, ref)


def _here(upstream: Upstream, *names: str) -> str | None:
    with repositories.opened(upstream.path) as repo:
        asked = ("--verify", "--quiet")
        found = (repo.git.rev_parse(*asked, f"{name}^{{commit}}", with_exceptions=False) for name in names)
        return next(filter(None, found), None)


def _fetched(upstream: Upstream, ref: str) -> str:
    try:
        with repositories.opened(upstream.path) as repo:
            repo.git.fetch("--quiet", "--depth=1", "--no-tags", "origin", ref)
            return str(repo.git.rev_parse("--verify", "FETCH_HEAD^{commit}"))
    except proc.ProcError as failure:
        # a branch that only this repository has
        is_own = "couldn't find remote ref" in failure.completed.stderr
        found = _here(upstream, f"refs/heads/{ref}", f"refs/remotes/{ref}") if is_own else None
        if found:
            return found
        raise UpstreamError(
            f"{upstream.name} has no {ref}; git says:\n{failure.hint}", hint="name a commit, tag or branch of it"
        ) from failure


def uncommitted(workspace: Workspace, upstream: Upstream, *paths: str) -> list[str]:
    """What of those paths of our own repository, and of the pin, is not as it was last committed."""
    link = upstream.path.relative_to(workspace.root).as_posix()
    with repositories.opened(workspace.root) as repo:
        shown = repo.git.status("--porcelain", "-z", "-uall", "--ignore-submodules=dirty", "--", link, *paths)
    return [entry[3:] for entry in shown.split("\0") if entry]


def index_of(tree: Path) -> Path:
    """Where a repository keeps its index."""
    with repositories.opened(tree) as repo:
        return Path(repo.git_dir, "index")


def settle(workspace: Workspace, upstream: Upstream, commit: str, index: Path, *paths: str) -> None:
    """Tell git that an upstream's files are those of `commit`, whose index is `index`; pin it and stage `paths`.

    Each file of git's is made aside and takes its place by a rename; all of it can be done again.
    """
    with _new_index(upstream.path, index) as repo:
        # a code of 1 says that files are not those of the commit
        repo.git.update_index("-q", "--refresh", with_exceptions=False)
    _replace(index_of(upstream.path).with_name("HEAD"), f"{commit}\n".encode())
    link = upstream.path.relative_to(workspace.root).as_posix()
    with _new_index(workspace.root, index_of(workspace.root)) as repo:
        repo.git.update_index("--cacheinfo", f"160000,{commit},{link}")
        repo.git.add("--all", "--", *paths)


@contextlib.contextmanager
def _new_index(tree: Path, start: Path) -> Iterator[Repo]:
    """The repository at `tree` with a copy of the index `start` to work on, which then becomes its index."""
    place = index_of(tree)
    new = place.with_name("index.lora")
    # what a killed git left
    new.with_name("index.lora.lock").unlink(missing_ok=True)
    shutil.copyfile(start, new)
    with repositories.opened(tree) as repo:
        repo.git.update_environment(GIT_INDEX_FILE=str(new))
        yield repo
    new.replace(place)


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f"{path.name}.lora")
    draft.write_bytes(data)
    draft.replace(path)
