"""The two ways to a tree: plain git, as little of it as will do, and a release's source archive."""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from lora_training import git_process, proc, repositories
from lora_training.errors import UpstreamError
from lora_training.upstream import pins, status
from lora_training.workspace import Upstream, Workspace

# The files of each tree that are needed, as git's sparse-checkout patterns; all files of a tree without an entry.
_NEEDED = {
    "sd-scripts": ("/*", "!/images/"),
    "transformers": ("/src/", "/setup.py", "/pyproject.toml", "/README.md", "/LICENSE"),
}
# A user's git setting: patterns that a checkout leaves out, for mirrors that lack a file or slow lines.
EXCLUDE_SETTING = "lora.exclude"
# A connection that brings under 1 kB/s for half a minute is a dead one.
_PATIENCE = ("-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=30", "-c", "advice.detachedHead=false")


def from_git(
    workspace: Workspace, upstream: Upstream, commit: str, tree: Path, progress: Callable[[str], None]
) -> None:
    """Check `commit` out into the empty folder `tree`: one commit deep, blobs filtered, sparse.

    Runs plain git on the address in `.gitmodules`, so `url.<base>.insteadOf`, proxies and credentials work.
    Raises proc.ProcError with git's own words.
    """
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
        repo.git.stream(progress, *_PATIENCE, *fetch)
        progress(f"{upstream.name}: checking out {commit[:12]}")
        repo.git.stream(progress, *_PATIENCE, "checkout", "--progress", "--detach", commit)


def patterns(workspace: Workspace, upstream: Upstream) -> list[str]:
    """Return the patterns of the files to check out: those that we need, less those that `lora.exclude` names."""
    excluded = git_process.run(workspace.root, "config", "--get-all", EXCLUDE_SETTING, allowed=(0, 1, 128)).splitlines()
    return [*_NEEDED.get(upstream.name, ("/*",)), *(f"!/{pattern.lstrip('/')}" for pattern in excluded if pattern)]


def from_sdist(upstream: Upstream, release: pins.Sdist, tree: Path) -> None:
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
        "files": status.manifest(tree),
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
