"""Checks of the machine: Python, git, the installed packages, disk, and the folders that `lora` writes to."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lora_training import proc
from lora_training.problems import Problem

_NEEDS = (3, 10)
_GB = 10**9
# A LoRA with its states takes a few GB, and a model that is downloaded from the hub more.
_SCARCE, _LEAST = 10 * _GB, 1 * _GB
# The image loader's workers pass images on in shared memory; containers often have 64 MB of it.
_SHARED = 512 * 10**6
_PIN = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)(?: *; *([^\\]+?))? *\\?")
_SHOWN = 5
_MEND = "`make setup` installs the pinned packages"


def ok(about: str, text: str) -> Problem:
    """Return a line without a problem."""
    return Problem(text, severity="ok", where=about)


def warn(about: str, text: str, hint: str | None = None) -> Problem:
    """Return a line that may be a problem, or is one for some trainings."""
    return Problem(text, hint, "warning", where=about)


def problem(about: str, text: str, hint: str | None = None) -> Problem:
    """Return a line that has to be fixed before a training."""
    return Problem(text, hint, where=about)


def python() -> Iterator[Problem]:
    """Check Python's version and the operating system."""
    text = f"{platform.python_version()} ({sys.executable})"
    is_new = sys.version_info >= _NEEDS
    yield ok("python", text) if is_new else problem("python", text, "Python 3.10 or newer: make PYTHON=...")
    system = f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} cores"
    is_known = platform.system() == "Linux"
    yield ok("system", system) if is_known else warn("system", system, "only Linux (or WSL) is tried out")


def git(folder: Path) -> Iterator[Problem]:
    """Check that git runs, which fetches the upstreams."""
    try:
        version = proc.run(["git", "--version"], cwd=folder).stdout.strip()
    except proc.ProcError as exc:
        yield problem("git", f"does not run: {exc.hint or exc.message}", "install git")
        return
    yield ok("git", version.removeprefix("git version "))


def disk(folders: Iterable[Path]) -> Iterator[Problem]:
    """Check the free space where files will be written, once per file system, and the shared memory."""
    seen: dict[int, Path] = {}
    for folder in folders:
        place = _there(folder)
        seen.setdefault(place.stat().st_dev, place)
    for place in seen.values():
        yield _space(place, shutil.disk_usage(place).free)
    yield from _shared_memory(Path("/dev/shm"))  # noqa: S108 - it is looked at, nothing is written there


def _there(folder: Path) -> Path:
    return next((place for place in (folder, *folder.parents) if place.exists()), folder)


def _space(place: Path, free: int) -> Problem:
    text = f"{free / _GB:.1f} GB free at {place}"
    hint = "free some space, or choose another output_dir; LORA_CACHE moves the cache"
    if free < _LEAST:
        return problem("disk", text, hint)
    return warn("disk", text, hint) if free < _SCARCE else ok("disk", text)


def _shared_memory(place: Path) -> Iterator[Problem]:
    if place.is_dir() and shutil.disk_usage(place).total < _SHARED:
        text = f"{shutil.disk_usage(place).total / 10**6:.0f} MB of shared memory"
        hint = "docker run --shm-size=2g ...; or max_data_loader_n_workers = 0 in the configuration"
        yield warn("memory", text, hint)


def writable(folders: Mapping[str, Path]) -> Iterator[Problem]:
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


def packages(pinned: Path, installed: Mapping[str, str]) -> Iterator[Problem]:
    """Check for packages that are missing or of another version; `installed` has versions by normalised name."""
    try:
        wanted = pins(pinned.read_text(encoding="utf-8"))
    except FileNotFoundError:
        yield warn("packages", f"{pinned} is not there to compare with")
        return
    missing = [name for name in wanted if name not in installed]
    other = [name for name, version in wanted.items() if installed.get(name, version) != version]
    if missing:
        yield problem("packages", f"not installed: {_some(missing)}", _MEND)
    if other:
        lines = [f"{name} {installed[name]} (pinned: {wanted[name]})" for name in other]
        yield warn("packages", f"other versions: {_some(lines)}", _MEND)
    if not missing and not other:
        yield ok("packages", f"all {len(wanted)} as pinned in {pinned.name}")


def pins(text: str) -> dict[str, str]:
    """Return the versions that a requirements file pins for this Python and machine, by normalised package name."""
    from lora_training.supervise.environment import normal

    found = (_PIN.fullmatch(line.rstrip()) for line in text.splitlines())
    return {normal(match[1]): match[2] for match in found if match and _applies(match[3])}


def _applies(marker: str | None) -> bool:
    """Return whether the marker after the `;` applies here; False if `packaging` is not installed."""
    if marker is None:
        return True
    try:
        from packaging.markers import Marker
    except ImportError:
        return False
    return Marker(marker.strip()).evaluate()


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else ""
    return ", ".join(names[:_SHOWN]) + more


def transformers(tree: Path) -> Iterator[Problem]:
    """Check that the import of transformers finds the patched tree. Nothing is imported for that."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        yield problem("packages", "transformers is not installed", _MEND)
        return
    found = Path(spec.origin).resolve()
    if not found.is_relative_to(tree.resolve()):
        yield problem("packages", f"transformers is imported from {found.parent}, not from {tree}", _MEND)
