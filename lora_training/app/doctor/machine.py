"""Checks of the machine: Python, git, disk, and the folders that `lora` writes to."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from typing import TYPE_CHECKING

from lora_training import proc
from lora_training.app.doctor.finding import Finding, ok, problem, warn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_NEEDS = (3, 10)
_GB = 10**9
# A LoRA with its states takes a few GB, and a model that is downloaded from the hub more.
_SCARCE, _LEAST = 10 * _GB, 1 * _GB
# The image loader's workers pass images on in shared memory; containers often have 64 MB of it.
_SHARED = 512 * 10**6


def python() -> Iterator[Finding]:
    """Check Python's version and the operating system."""
    text = f"{platform.python_version()} ({sys.executable})"
    is_new = sys.version_info >= _NEEDS
    yield ok("python", text) if is_new else problem("python", text, "Python 3.10 or newer: make PYTHON=...")
    system = f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} cores"
    is_known = platform.system() == "Linux"
    yield ok("system", system) if is_known else warn("system", system, "only Linux (or WSL) is tried out")


def git(folder: Path) -> Iterator[Finding]:
    """Check that git runs, which fetches the upstreams."""
    try:
        version = proc.run(["git", "--version"], cwd=folder).stdout.strip()
    except proc.ProcError as exc:
        yield problem("git", f"does not run: {exc.hint or exc.message}", "install git")
        return
    yield ok("git", version.removeprefix("git version "))


def disk(folders: Iterable[Path]) -> Iterator[Finding]:
    """Check the free space where files will be written, once per file system, and the shared memory."""
    seen: dict[int, Path] = {}
    for folder in folders:
        place = _there(folder)
        seen.setdefault(place.stat().st_dev, place)
    for place in seen.values():
        yield _space(place, shutil.disk_usage(place).free)
    yield from _shared_memory("/dev/shm")  # noqa: S108 - it is looked at, nothing is written there


def _there(folder: Path) -> Path:
    return next((place for place in (folder, *folder.parents) if place.exists()), folder)


def _space(place: Path, free: int) -> Finding:
    text = f"{free / _GB:.1f} GB free at {place}"
    hint = "free some space, or choose another output_dir; LORA_CACHE moves the cache"
    if free < _LEAST:
        return problem("disk", text, hint)
    return warn("disk", text, hint) if free < _SCARCE else ok("disk", text)


def _shared_memory(place: str) -> Iterator[Finding]:
    if os.path.isdir(place) and shutil.disk_usage(place).total < _SHARED:  # noqa: PTH112 - a text
        text = f"{shutil.disk_usage(place).total / 10**6:.0f} MB of shared memory"
        hint = "docker run --shm-size=2g ...; or max_data_loader_n_workers = 0 in the configuration"
        yield warn("memory", text, hint)


def writable(folders: Mapping[str, Path]) -> Iterator[Finding]:
    """Check that the folders, by the name of their purpose, are writable or can be created. Nothing is written."""
    for name, folder in folders.items():
        if os.access(_there(folder), os.W_OK | os.X_OK) and (folder.is_dir() or not folder.exists()):
            yield ok(name, str(folder))
        else:
            yield warn(name, f"{folder} cannot be written to", _LOST.get(name))


_LOST = {
    "cache": "LORA_CACHE=FOLDER moves it; without one, schemas and digests are made anew each time",
    "state": "trainings run all the same, and `lora runs list` does not know them",
}
