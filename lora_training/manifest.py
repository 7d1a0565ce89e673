"""The manifest of a saved state. It is written last, so a state without one is incomplete.

Shared by the training process, which writes it, and the supervisor, which reads it before it trusts a state.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_training import files

NAME = "lora-state.json"
# In upstream's names of LoRAs and states, between the run's name and the ending: `-step00000010` or `-000002`.
PLACE = r"(?:-step\d{8,}|-\d{6,})?"
# The losses so far. Only the displayed average depends on them, so they may be written after the manifest.
LOSSES = "lora-losses.json"
# Marks a state that was saved only because the run was stopped.
_PASSING = "lora-passing"
_UNLISTED = frozenset({NAME, LOSSES, _PASSING})
# Beside a state that a run was started from: a file with the sha256 of that state's manifest.
_KEPT = ".kept"
_CHUNK = 1 << 20
_LARGEST = 1 << 20
_LATEST = 1 << 53
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Manifest:
    """A state's step, the digests of its inputs by name (`made_by`), and the sha256 of each of its files by path.

    The digests are in the same folder as the files: they show damage, but not who made the state.
    """

    step: int
    made_by: Mapping[str, str]
    files: Mapping[str, str]


def write(folder: Path, *, step: int, made_by: Mapping[str, str]) -> None:
    """Write the manifest of `folder`, after all its files have been flushed to the disk."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for path in found.values():
        files.sync(path)
    document = {"step": step, "made_by": dict(made_by), "files": {name: digest(path) for name, path in found.items()}}
    files.write(folder / NAME, json.dumps(document, indent=1) + "\n", synced=True)


def read(folder: Path) -> Manifest | None:
    """Return the folder's manifest; None when it is missing or invalid."""
    found = files.read_json(folder / NAME, _LARGEST)
    return Manifest(found["step"], found["made_by"], found["files"]) if _is_sound(found) else None


def _is_sound(found: dict[str, Any]) -> bool:
    """Return whether all values have the right types, and all names are plain paths below the folder."""
    step, made_by, listed = (found.get(name) for name in ("step", "made_by", "files"))
    if type(step) is not int or not isinstance(made_by, dict) or not isinstance(listed, dict):
        return False
    digests = [isinstance(each, str) and bool(_DIGEST.fullmatch(each)) for each in listed.values()]
    return (
        0 <= step < _LATEST
        and all(isinstance(each, str) for each in made_by.values())
        and bool(listed)
        and all(digests)
        and not any("\0" in name or {"", ".", ".."} & set(name.split("/")) for name in listed)
    )


def mark_passing(folder: Path) -> None:
    """Mark a state as temporary: it is only for resuming, and is removed when the run has continued beyond it."""
    files.touch(folder / _PASSING)


def is_passing(folder: Path) -> bool:
    """Return whether the state in `folder` is marked as temporary."""
    return (folder / _PASSING).exists()


def keep(folder: Path) -> None:
    """Protect the state in `folder`, which a run was started from: `lora` will not remove, rename or replace it."""
    try:
        for path in {folder, folder.resolve()}:
            files.write(mark(path), digest(folder / NAME) + "\n", synced=True)
    except OSError as exc:
        # without write access, nothing can be removed either
        if exc.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise


def mark(folder: Path) -> Path:
    """Return the file beside a state that protects it."""
    return folder.with_name(folder.name + _KEPT)


def is_kept(folder: Path) -> bool:
    """Return whether a run was started from exactly this state in `folder`."""
    try:
        return files.read(mark(folder)).decode("ascii").strip() == digest(folder / NAME)
    except (OSError, ValueError):
        return False


def place(folder: Path) -> Path:
    """Return the folder for a new state `folder`: `folder.2` and so on where a protected state has the name."""
    names = (folder if number == 1 else folder.with_name(f"{folder.name}.{number}") for number in itertools.count(1))
    return next(path for path in names if not any(map(is_kept, (path, partial(path), replaced(path)))))


def partial(folder: Path) -> Path:
    """Return the folder of a state while it is being written."""
    return folder.with_name(f"{folder.name}.partial")


def replaced(folder: Path) -> Path:
    """Return the folder of the old state while a new one replaces it."""
    return folder.with_name(f"{folder.name}.old")


def damage(folder: Path, manifest: Manifest) -> str | None:
    """Return a message for the first file that does not match the manifest, or None when all match."""
    try:
        for name, is_regular in _contents(folder):
            if not is_regular:
                return f"{name} is no regular file"
            if name not in manifest.files and name not in _UNLISTED and not name.startswith("."):
                return f"{name} is not among the files that it was saved with"
    except OSError as exc:
        return f"{exc.filename} cannot be read"
    for name, wanted in manifest.files.items():
        try:
            found = digest(folder / name)
        except OSError:
            return f"{name} cannot be read"
        if found != wanted:
            return f"{name} was changed or damaged"
    return None


def _contents(folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield the path of each file in `folder` and below, and whether it is a regular file."""
    folders = [""]
    while folders:
        prefix = folders.pop()
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{prefix}{entry.name}/")
                else:
                    yield prefix + entry.name, entry.is_file(follow_symlinks=False)


def digest(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    found = hashlib.sha256()
    with open(path, "rb", opener=files.opener) as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def outputs(lora: Path, ending: str) -> list[Path]:
    """Return the files and folders of the run that writes `lora`, by upstream's names; `ending` is a pattern."""
    wanted = re.compile(re.escape(lora.stem) + PLACE + ending)
    paths = lora.parent.iterdir() if lora.parent.is_dir() else ()
    return sorted(path for path in paths if wanted.fullmatch(path.name))
