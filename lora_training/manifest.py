"""What a folder of saved state says about itself: written last, so that a state without it was never finished.

Shared by the training process, which writes it, and the supervisor, which trusts a state only after reading it.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_training import files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

NAME = "lora-state.json"
# The losses so far. Only what is shown depends on it, so it may come after the manifest.
LOSSES = "lora-losses.json"
# In a state that was saved only because the run was to stop.
_PASSING = "lora-passing"
_UNLISTED = frozenset({NAME, LOSSES, _PASSING})
# Beside a state that a run was begun from: it holds the sha256 of that very state's manifest.
_KEPT = ".kept"
_CHUNK = 1 << 20
_LARGEST = 1 << 20
_LATEST = 1 << 53
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Manifest:
    """A state's step, what made it (`made_by`: digests by name), and the sha256 of each of its files by path.

    The digests lie beside the files: they show damage, and not who made the state.
    """

    step: int
    made_by: Mapping[str, str]
    files: Mapping[str, str]


def write(folder: Path, *, step: int, made_by: Mapping[str, str]) -> None:
    """Describe `folder` as it is now, and have all of it on the disk before the description is."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for path in found.values():
        _to_disk(path)
    document = {"step": step, "made_by": dict(made_by), "files": {name: digest(path) for name, path in found.items()}}
    _write_text(folder / NAME, json.dumps(document, indent=1) + "\n")


def read(folder: Path) -> Manifest | None:
    """The folder's manifest; None when there is none or it makes no sense."""
    try:
        found = json.loads(files.read(folder / NAME, _LARGEST))
    except (OSError, ValueError, RecursionError):
        return None
    return Manifest(found["step"], found["made_by"], found["files"]) if _is_sound(found) else None


def _is_sound(found: Any) -> bool:
    """Whether all is of the type that it is written with, and the files are regular names below the folder."""
    if not isinstance(found, dict):
        return False
    step, made_by, listed = (found.get(name) for name in ("step", "made_by", "files"))
    if type(step) is not int or not isinstance(made_by, dict) or not isinstance(listed, dict):
        return False
    digests = [isinstance(each, str) and bool(_DIGEST.fullmatch(each)) for each in listed.values()]
    return (
        0 <= step < _LATEST
        and all(isinstance(each, str) for each in made_by.values())
        and bool(listed)
        and all(digests)
        and all(map(_is_plain, listed))
    )


def _is_plain(name: str) -> bool:
    return "\0" not in name and all(part not in ("", ".", "..") for part in name.split("/"))


def mark_passing(folder: Path) -> None:
    """Say of a state that it is for going on from only, and may go when the run has got further."""
    files.touch(folder / _PASSING)


def is_passing(folder: Path) -> bool:
    """Whether the state in `folder` is marked so."""
    return (folder / _PASSING).exists()


def keep(folder: Path) -> None:
    """Have nothing of ours remove, rename or replace the state in `folder` any more: a run begins from it."""
    try:
        for path in {folder, folder.resolve()}:
            _write_text(_kept_mark(path), digest(folder / NAME) + "\n")
    except OSError as exc:
        # where we cannot write, we cannot remove either
        if exc.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise


def is_kept(folder: Path) -> bool:
    """Whether a run was begun from the very state that is in `folder`."""
    try:
        return files.read(_kept_mark(folder)).decode("ascii").strip() == digest(folder / NAME)
    except (OSError, ValueError):
        return False


def place(folder: Path) -> Path:
    """Where to save a state that is to be called `folder`: `folder.2` and so on where a state is kept."""
    names = (folder if number == 1 else folder.with_name(f"{folder.name}.{number}") for number in itertools.count(1))
    return next(path for path in names if not any(map(is_kept, (path, partial(path), replaced(path)))))


def partial(folder: Path) -> Path:
    """Where a state lies while it is being written."""
    return folder.with_name(f"{folder.name}.partial")


def replaced(folder: Path) -> Path:
    """Where a state lies while another one takes its place."""
    return folder.with_name(f"{folder.name}.old")


def damage(folder: Path, manifest: Manifest) -> str | None:
    """The first file that is not what the manifest says or not in it, or None when all are as they should be."""
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
    """The name of all that is in `folder` and below, folders apart, and whether it is a regular file."""
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
    """The sha256 of a file, in hexadecimal."""
    found = hashlib.sha256()
    with open(path, "rb", opener=files.opener) as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _kept_mark(folder: Path) -> Path:
    return folder.with_name(folder.name + _KEPT)


def _write_text(path: Path, text: str) -> None:
    files.write(path, text)
    _to_disk(path)
    _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
