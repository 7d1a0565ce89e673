from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lora_training import workspace
from tests.helpers import ROOT, repository


@pytest.fixture
def no_upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of this project without sd-scripts."""
    root = tmp_path / "checkout"
    modules = (
        '[submodule "third_party/sd-scripts"]\npath = third_party/sd-scripts\nurl = https://git.example.invalid/x\n'
    )
    repository(root, {".gitmodules": modules, "patches/.keep": "", "lora_training/.keep": ""})
    commit = "6721028c79ee85a78b3a06dfd8954dae310a1cce"
    argv = ["git", "update-index", "--add", "--cacheinfo", f"160000,{commit},third_party/sd-scripts"]
    subprocess.run(argv, cwd=root, check=True)
    monkeypatch.setenv("LORA_HOME", str(root))
    monkeypatch.setenv("LORA_CACHE", str(workspace.Workspace(ROOT).state / "cache"))
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> workspace.Workspace:
    """A checkout with no run yet."""
    for name in ("patches", "lora_training"):
        (tmp_path / name).mkdir()
    (tmp_path / ".gitmodules").touch()
    monkeypatch.setenv(workspace.HOME_VARIABLE, str(tmp_path))
    monkeypatch.delenv(workspace.RUNS_VARIABLE)
    return workspace.Workspace(tmp_path)
