"""Bring every upstream to its pin, all of a tree or nothing of it, by plain git or from a release's source archive."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Literal

from lora_training import git_process, locks, proc, repositories
from lora_training.errors import UpstreamError
from lora_training.upstream import pins
from lora_training.workspace import Upstream, Workspace

Outcome = Literal["kept", "git", "sdist"]

# The files of each tree that are needed, as git's sparse-checkout patterns; all files of a tree without an entry.
_NEEDED = {
    "sd-scripts": ("/*", "!/images/"),
    "transformers": ("/src/", "/setup.py", "/pyproject.toml", "/README.md", "/LICENSE"),
}
# A connection that brings under 1 kB/s for half a minute is a dead one.
_PATIENCE = ("-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=30", "-c", "advice.detachedHead=false")
# Below third_party, so that the last step is a rename within one file system.
_STAGING = ".sync"


def sync(workspace: Workspace, name: str, progress: Callable[[str], None], *, discard_edits: bool = False) -> Outcome:
    """Bring upstream `name` to its pin and say how: it was there ("kept"), by "git", or from the "sdist".

    An existing tree at its pin is not touched. A new tree is built in a staging folder and renamed into place, so that
    a sync that is killed at any moment leaves the old tree or the new one.

    Raises UpstreamError when the tree has changes and is not at its pin (unless `discard_edits`), when something of
    unknown origin is in its place, or when neither its git host nor the package index can be reached.
    """
    upstream = workspace.upstream(name)
    with lock(workspace):
        staging = _clean_staging(workspace, upstream)
        head = pins.head(upstream)
        pin = pins.pin(workspace, name)
        if head.commit == pin and not (discard_edits and pins.changes(upstream, head)):
            return "kept"
        _check_replaceable(upstream, head, pin, discard_edits=discard_edits)
        # a folder inside, since a temporary one is for its owner alone
        tree = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=staging)) / name
        tree.mkdir()
        try:
            outcome = _bring(workspace, upstream, pin, tree, progress)
            _put_in_place(tree, upstream.path, staging)
        finally:
            _remove(tree.parent)
    return outcome


@contextlib.contextmanager
def lock(workspace: Workspace) -> Iterator[None]:
    """One sync at a time in a checkout; a second one waits."""
    with _lock_file(workspace) as handle:
        locks.acquire(handle.fileno(), wait=True)
        yield


def _lock_file(workspace: Workspace) -> IO[str]:
    try:
        workspace.state.mkdir(exist_ok=True)
        return (workspace.state / "sync.lock").open("w")
    except OSError as exc:
        raise UpstreamError(f"cannot write to {workspace.state}: {exc.strerror}", hint="mend its permissions") from exc


def _clean_staging(workspace: Workspace, upstream: Upstream) -> Path:
    """Return the emptied staging folder, after an old tree that an interrupted sync left there is moved back."""
    staging = workspace.root / "third_party" / _STAGING
    old = _old(staging, upstream.path)
    if old.exists() and not _occupied(upstream.path):
        os.rename(old, _vacate(upstream.path))  # noqa: PTH104 - onto an empty folder, which Path.rename leaves to chance
    staging.mkdir(parents=True, exist_ok=True)
    for leftover in staging.iterdir():
        # the git of a sync that was killed may still be writing there; then the next sync gets rid of it
        shutil.rmtree(leftover, ignore_errors=True)
    return staging


def _check_replaceable(upstream: Upstream, head: pins.Head, pin: str, *, discard_edits: bool) -> None:
    if not _occupied(upstream.path):
        return
    if head.commit is None:
        raise UpstreamError(
            f"{upstream.path} holds something that is neither a checkout nor a source archive of {upstream.name}",
            hint="move it away and sync again",
        )
    changed = pins.changes(upstream, head)
    if changed and not discard_edits:
        raise UpstreamError(
            f"{upstream.name} is at {head.commit[:12]}, not at its pin {pin[:12]}, and has changes: {_some(changed)}",
            hint="`lora upstream sync --discard-edits` brings the pin and throws the changes away",
        )


def _bring(workspace: Workspace, upstream: Upstream, pin: str, tree: Path, progress: Callable[[str], None]) -> Outcome:
    try:
        _from_git(workspace, upstream, pin, tree, progress)
    except proc.ProcError as failure:
        release = pins.sdist(workspace, upstream.name)
        if release is None or release.commit != pin:
            raise _unreachable(upstream, pin, failure) from failure
        progress(f"{upstream.url} cannot be reached; taking the release's source archive from the package index")
    else:
        return "git"
    _remove(tree)
    tree.mkdir()
    _from_sdist(upstream, release, tree)
    return "sdist"


def _unreachable(upstream: Upstream, pin: str, failure: proc.ProcError) -> UpstreamError:
    words = failure.completed.stderr.strip() or failure.message
    return UpstreamError(
        f"cannot bring {upstream.name} {pin[:12]} from {upstream.url}; git says:\n{words}",
        hint="with a copy of that repository at hand (any clone will do), tell git to use it and try again:\n"
        f"git config --global url.file:///path/to/the/copy.insteadOf {upstream.url}",
    )


def _put_in_place(tree: Path, target: Path, staging: Path) -> None:
    if _occupied(target):
        target.rename(_old(staging, target))
    os.rename(tree, _vacate(target))  # noqa: PTH104 - as above
    _remove(_old(staging, target))


def _vacate(target: Path) -> Path:
    """`target` as an empty folder: git leaves one for each submodule, a rename may replace it."""
    target.mkdir(parents=True, exist_ok=True)
    return target


def _old(staging: Path, target: Path) -> Path:
    return staging / f"old-{target.name}"


def _occupied(path: Path) -> bool:
    return path.is_dir() and any(path.iterdir())


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def _some(paths: tuple[str, ...], limit: int = 5) -> str:
    more = f" and {len(paths) - limit} more" if len(paths) > limit else ""
    return ", ".join(paths[:limit]) + more


def _from_git(
    workspace: Workspace, upstream: Upstream, commit: str, tree: Path, progress: Callable[[str], None]
) -> None:
    """Check `commit` out into the empty folder `tree`: one commit deep, blobs filtered, sparse.

    Runs plain git on the address in `.gitmodules`, so `url.<base>.insteadOf`, proxies and credentials work.
    Raises proc.ProcError with git's own words.
    """

    def meter(line: str) -> None:
        # an error of git's is in the exception, and is none where the source archive takes its place
        if "%" in line:
            progress(line)

    repositories.check_address(upstream.url)
    chosen = patterns(workspace, upstream)
    with repositories.created(tree) as repo:
        repo.create_remote("origin", upstream.url)
        with repo.config_writer() as settings:
            # as `clone --filter` writes them: blobs are fetched when a checkout needs them
            settings.set_value('remote "origin"', "promisor", "true")
            settings.set_value('remote "origin"', "partialCloneFilter", "blob:none")
            # `git sparse-checkout set` would want a commit first; this and the file are all that it writes
            settings.set_value("core", "sparseCheckout", "true")
        info = Path(repo.git_dir) / "info"
        info.mkdir(exist_ok=True)
        (info / "sparse-checkout").write_text("\n".join(chosen) + "\n", encoding="utf-8")
        progress(f"{upstream.name}: fetching {commit[:12]} from {upstream.url}")
        fetch = ("fetch", "--progress", "--depth=1", "--filter=blob:none", "--no-tags", "origin", commit)
        repo.git.stream(meter, *_PATIENCE, *fetch)
        progress(f"{upstream.name}: checking out {commit[:12]}")
        repo.git.stream(meter, *_PATIENCE, "checkout", "--progress", "--detach", commit)


def patterns(workspace: Workspace, upstream: Upstream) -> list[str]:
    """Return the patterns of the files to check out: those that we need, less those of the setting `lora.exclude`.

    That is a user's own, for mirrors that lack a file or slow lines.
    """
    excluded = git_process.run(workspace.root, "config", "--get-all", "lora.exclude", allowed=(0, 1, 128)).splitlines()
    return [*_NEEDED.get(upstream.name, ("/*",)), *(f"!/{pattern.lstrip('/')}" for pattern in excluded if pattern)]


def _from_sdist(upstream: Upstream, release: pins.Sdist, tree: Path) -> None:
    """Unpack the needed files of a release's source archive into the empty folder `tree`, and write its marker.

    pip brings it from the package index that the user's own settings name, and checks its sha256.
    Raises UpstreamError when it cannot be had or is not the one we pin.
    """
    with tempfile.TemporaryDirectory(dir=tree.parent) as scratch:
        archive = _download(upstream, release, Path(scratch))
        top = _unpack(archive, Path(scratch) / "unpacked")
        for pattern in _NEEDED[upstream.name]:
            name = pattern.strip("/")
            shutil.move(top / name, tree / name)
    marker = {
        "commit": release.commit,
        "archive": archive.name,
        "sha256": release.sha256,
        "files": pins.digests(tree),
    }
    (tree / pins.MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")


def _download(upstream: Upstream, release: pins.Sdist, folder: Path) -> Path:
    wanted = folder / "requirement.txt"
    wanted.write_text(f"{release.requirement} --hash=sha256:{release.sha256}\n", encoding="utf-8")
    pip = [*proc.module("pip"), "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    # pip runs the archive's own setup.py for its name and version, with the setuptools that we have
    flags = ["--no-deps", "--no-binary=:all:", "--no-build-isolation", "--require-hashes", "-r", str(wanted)]
    try:
        proc.run([*pip, *flags, "-d", str(folder)], cwd=folder)
    except proc.ProcError as failure:
        raise UpstreamError(
            f"neither {upstream.url} nor the package index gives {upstream.name}; pip says:\n{failure.hint}",
            hint="see that the package index can be reached (PIP_INDEX_URL names another one)",
        ) from failure
    return next(folder.glob("*.tar.gz"))


def _unpack(archive: Path, folder: Path) -> Path:
    """Unpack, refusing links and names that leave `folder`; the archive's one top folder."""
    with tarfile.open(archive) as tar:
        # as an attribute, since Pythons before 3.10.12 do not know the argument; the content is pinned by its sha256
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(folder)  # noqa: S202 - filtered, see above
    return next(folder.iterdir())
