from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lora_training.patching import relock
from lora_training.patching.model import sha256
from lora_training.patching.series import Target
from lora_training.workspace import Workspace
from tests.helpers import ROOT, Ran, git, lora, repository, write

Tree = dict[str, tuple[str, bytes]]


_MEMORY = Path("/dev/shm")  # noqa: S108 - folders made below it are private


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where that can be: hundreds of fsyncs on a busy disk would take minutes and show nothing more."""
    if not os.access(_MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=_MEMORY) as scratch:
        yield Path(scratch)


def tree_of(root: Path, *, without: tuple[str, ...] = (".git", ".lora-patch")) -> Tree:
    """Everything below `root`: kind and permissions, and content; folders too, so that leftovers show."""
    found: Tree = {}
    for base, folders, files in os.walk(os.fsencode(root)):
        if base == os.fsencode(root):
            folders[:] = [folder for folder in folders if os.fsdecode(folder) not in without]
        for name in [*folders, *files]:
            path = os.path.join(base, name)
            relative = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
            found[relative] = _entry(path)
    return found


def _entry(path: bytes) -> tuple[str, bytes]:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return "link", os.readlink(path)
    if stat.S_ISDIR(status.st_mode):
        return f"folder {stat.S_IMODE(status.st_mode):o}", b""
    with open(path, "rb") as file:
        return oct(stat.S_IMODE(status.st_mode)), file.read()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    made.mkdir()
    return made


def git_diff(before: Path, *args: str) -> bytes:
    """What `git add -A; git diff --cached` says in a repository."""
    git("add", "-A", cwd=before)
    return diff_bytes(before, "--cached", *args)


def diff_bytes(repo: Path, *args: str) -> bytes:
    argv = ["git", "diff", "--binary", "--full-index", "--no-color", *args]
    return subprocess.run(argv, cwd=repo, check=True, capture_output=True).stdout


HEADER = """\
Description: {title}
Author: A
Origin: vendor
Bug: none
Forwarded: no
Last-Update: 2026-01-01
Upstream-Version: 1
Reason: a test
Verification: true
Removal-Condition: version >= 99
---
"""


@dataclass
class Checkout:
    """A checkout with two upstreams: `alpha` is a git repository, `beta` a plain folder as from a source archive."""

    here: Workspace
    commits: dict[str, str]
    manifest: dict[str, str]

    def root(self, name: str) -> Path:
        return self.here.root / "third_party" / name

    @property
    def targets(self) -> list[Target]:
        manifests = {"alpha": None, "beta": lambda: self.manifest}
        return [
            Target(name, self.root(name), self.here.patches / name, commit, commit, manifests[name])
            for name, commit in self.commits.items()
        ]

    def add(self, name: str, title: str, edits: dict[str, str | None]) -> Path:
        """A patch at the end of a series, made with git from `edits` on top of the patches that are there."""
        with tempfile.TemporaryDirectory() as scratch:
            repo = Path(scratch) / "r"
            shutil.copytree(self.root(name), repo, symlinks=True, ignore=shutil.ignore_patterns(".git", "*.orig"))
            git("init", "-q", cwd=repo)
            series = self.here.patches / name / "series"
            for line in series.read_text().split() if series.exists() else ():
                git("apply", str(series.with_name(line)), cwd=repo)
            git("add", "-A", cwd=repo)
            git("commit", "-q", "-m", "x", cwd=repo)
            for path, text in edits.items():
                (repo / path).parent.mkdir(parents=True, exist_ok=True)
                (repo / path).unlink() if text is None else (repo / path).write_text(text)
            return self.add_diff(name, title, git_diff(repo))

    def add_diff(self, name: str, title: str, diff: bytes) -> Path:
        folder = self.here.patches / name
        folder.mkdir(parents=True, exist_ok=True)
        series = folder / "series"
        listed = series.read_text() if series.exists() else ""
        path = folder / f"{listed.count(chr(10)) + 1:04d}-{title}.patch"
        path.write_bytes(HEADER.format(title=title).encode() + diff)
        series.write_text(f"{listed}{path.name}\n")
        return path

    def lock(self) -> None:
        relock.lock(self.here, self.targets)

    def lora(self, *args: str) -> Ran:
        """`lora` on this checkout, once it is the `site`."""
        return lora(*args, cwd=self.here.root, env=dict(os.environ))

    def trees(self) -> dict[str, Tree]:
        return {name: tree_of(self.root(name)) for name in self.commits}


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """Two upstreams, two patches on `alpha` that both touch one file, one on `beta`; locked, not applied."""
    root = tmp_path / "checkout"
    modules = "".join(f'[submodule "{n}"]\n\tpath = third_party/{n}\n\turl = {n}\n' for n in ("alpha", "beta"))
    write(root, {".gitmodules": modules, "patches/.keep": "", "lora_training/.keep": ""})
    commit = repository(root / "third_party/alpha", {"a.py": LINES, "lib/b.py": "b\n", "lib/gone.py": "g\n"})
    write(root / "third_party/beta", {"c.py": LINES})
    made = Checkout(Workspace(root), {"alpha": commit, "beta": "b" * 40}, {"c.py": sha256(LINES.encode())})
    made.add("alpha", "first", {"a.py": LINES.replace("2\n", "two\n", 1), "new/n.py": "n\n"})
    made.add("alpha", "second", {"a.py": LINES.replace("2\n", "two\n", 1) + "end\n", "lib/gone.py": None})
    made.add("beta", "third", {"c.py": LINES.replace("7\n", "seven\n", 1)})
    made.lock()
    return made


LINES = "".join(f"{n}\n" for n in range(20))


@pytest.fixture
def site(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """A checkout that `lora` itself works on, all patches in; `alpha` is a repository, `beta` a source archive."""
    root = checkout.here.root
    git("init", "-q", cwd=root)
    for name, commit in checkout.commits.items():
        git("update-index", "--add", "--cacheinfo", f"160000,{commit},third_party/{name}", cwd=root)
    marker = {"commit": checkout.commits["beta"], "archive": "beta-1.tar.gz", "files": checkout.manifest}
    (checkout.root("beta") / ".lora-upstream.json").write_text(json.dumps(marker))
    shutil.copytree(ROOT / "patches" / "docs", root / "patches" / "docs")
    monkeypatch.setenv("LORA_HOME", str(root))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for verb in ("docs", "apply"):
        assert checkout.lora("patch", verb).code == 0
    verified = checkout.lora("patch", "verify")
    assert verified.code == 0, verified.out
    return checkout
