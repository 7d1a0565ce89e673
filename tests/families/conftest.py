"""The tiny models of every family, made once for all processes of a test run."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_training.families import ASSETS
from tests.helpers import ROOT, git

ALWAYS = {"sdxl", "flux"}
MAKE = """
import sys
from pathlib import Path
from lora_training.smoke.make import make

for name in sys.argv[2:]:
    make(Path(sys.argv[1], name), name.partition("-")[2])
"""


@pytest.fixture(scope="session")
def cache(sd_scripts: Path) -> Path:
    """A folder for LORA_CACHE with all models; the first process makes them, in one process that imports torch once."""
    pytest.importorskip("torch")
    folder = Path(os.environ["HOME"], "families")
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        names = [name for name in ASSETS if not (folder / name).exists()]
        if names:
            subprocess.run([sys.executable, "-c", MAKE, folder, *names], cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def env(cache: Path) -> dict[str, str]:
    """The environment of a run: with these models, and without the hub."""
    return {**os.environ, "LORA_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the long tests to `make test-families`, but for SDXL, FLUX and a family that this commit chooses."""
    found = {item: item.cls.name for item in items if isinstance(item, pytest.Function) and _is_long(item)}
    others = sorted(set(found.values()) - ALWAYS)
    chosen = {*ALWAYS, others[int(git("rev-parse", "HEAD", cwd=ROOT), 16) % len(others)]} if others else ALWAYS
    for item, name in found.items():
        if name not in chosen:
            item.add_marker("families")


def _is_long(item: pytest.Item) -> bool:
    return item.get_closest_marker("drill") is not None
