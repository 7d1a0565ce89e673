from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from lora_training.workspace import Workspace
from tests.helpers import commit, git, repository

ADDRESS = "https://git.example.invalid/sd-scripts"


@dataclass
class Site:
    """A checkout, an upstream's repository, and a git configuration that redirects the one to the other."""

    here: Workspace
    remote: Path
    config: Path

    @property
    def tree(self) -> Path:
        return self.here.root / "third_party" / "sd-scripts"

    def pin(self, revision: str) -> None:
        git("update-index", "--add", "--cacheinfo", f"160000,{revision},third_party/sd-scripts", cwd=self.here.root)

    def git_config(self, *args: str) -> None:
        git("config", "--file", str(self.config), *args, cwd=self.here.root)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    remote = tmp_path / "mirror" / "repo"
    revision = repository(remote, {"train_network.py": "print(1)\n", "images/a.png": "x", "configs/big.json": "{}"})
    git("config", "uploadpack.allowFilter", "true", cwd=remote)
    root = tmp_path / "a checkout"
    modules = (
        f'[submodule "third_party/sd-scripts"]\n\tpath = third_party/sd-scripts\n\turl = {ADDRESS}\n\tignore = dirty\n'
    )
    repository(
        root, {".gitmodules": modules, "patches/.keep": "", "lora_training/.keep": "", ".gitignore": "/.lora/\n"}
    )
    (root / "third_party" / "sd-scripts").mkdir(parents=True)
    config = tmp_path / "gitconfig"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("LORA_HOME", str(root))
    made = Site(Workspace(root), remote, config)
    made.git_config(f"url.file://{remote}.insteadOf", ADDRESS)
    made.git_config("protocol.file.allow", "always")
    made.pin(revision)
    git("commit", "-q", "-m", "pin", cwd=root)
    return made


@pytest.fixture
def unreachable(site: Site) -> Site:
    shutil.move(site.remote, site.remote.with_name("gone"))
    return site


def advance(site: Site) -> str:
    """One more commit upstream, pinned here."""
    revision = commit(
        site.remote, {"train_network.py": "print(2)\n", "count": git("rev-parse", "HEAD", cwd=site.remote)}
    )
    site.pin(revision)
    return revision
