"""What a folder of saved state says about itself: written last, so that a state without it was never finished.

Shared by the training process, which writes it, and the supervisor, which trusts a state only after reading it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_training import files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAME = "lora-state.json"
# In a state that was saved only because the run was to stop; it is not among the files that the manifest lists.
_PASSING = "lora-passing"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Manifest:
    """A state's step, what made it (`made_by`: digests by name), and the sha256 of each of its files by path."""

    step: int
    made_by: Mapping[str, str]
    files: Mapping[str, str]


def write(folder: Path, *, step: int, made_by: Mapping[str, str]) -> None:
    """Describe `folder` as it is now, and have all of it on the disk before the description is."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for path in found.values():
        _to_disk(path)
    document = {"step": step, "made_by": dict(made_by), "files": {name: digest(path) for name, path in found.items()}}
    files.write(folder / NAME, json.dumps(document, indent=1) + "\n")
    _to_disk(folder / NAME)
    _to_disk(folder)


def read(folder: Path) -> Manifest | None:
    """The folder's manifest; None when there is none or it cannot be read."""
    try:
        raw: dict[str, Any] = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return Manifest(int(raw["step"]), dict(raw["made_by"]), dict(raw["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def mark_passing(folder: Path) -> None:
    """Say of a state that it is for going on from only, and may go when the run has got further."""
    files.touch(folder / _PASSING)


def is_passing(folder: Path) -> bool:
    """Whether the state in `folder` is marked so."""
    return (folder / _PASSING).exists()


def damage(folder: Path, manifest: Manifest) -> str | None:
    """The first file that is not what the manifest says, or None when all are."""
    for name, wanted in manifest.files.items():
        try:
            found = digest(folder / name)
        except OSError:
            return f"{name} cannot be read"
        if found != wanted:
            return f"{name} was changed or damaged"
    return None


def digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
