from __future__ import annotations

from pathlib import Path

import pytest

from lora_training import workspace
from tests.helpers import ROOT, without_upstream


@pytest.fixture
def no_upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of this project without sd-scripts."""
    root = without_upstream(tmp_path / "checkout")
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
