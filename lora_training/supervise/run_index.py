"""The index of a checkout's runs: one small file each, which contains the path of the run's folder."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from lora_training.supervise import record
from lora_training.supervise.record import Record
from lora_training.workspace import Workspace

_IDENT = re.compile(r"[0-9a-f]{16}")


def add(workspace: Workspace, folder: Path) -> None:
    """Add the run in `folder` to the index. Of one that was moved, the earlier ids name it as well.

    Nothing is done where the index is not writable, as in a container.
    """
    before = moved_from(workspace, folder)
    earlier = [pointer for pointer in _pointers(workspace) if before and _folder(pointer) == before]
    with suppress(OSError):
        workspace.runs.mkdir(parents=True, exist_ok=True)
        for pointer in (workspace.runs / ident(folder), *earlier):
            pointer.write_text(f"{folder}\n", encoding="utf-8")


def moved_from(workspace: Workspace, folder: Path) -> Path | None:
    """Return the folder that the index has for the run in `folder`, if it was moved from there; None if it was not."""
    first = record.place(folder)
    last = _folder(workspace.runs / ident(first)) if first else None
    return None if last is None or last == folder or os.path.lexists(last) else last


def remove(workspace: Workspace, folder: Path) -> None:
    """Remove the run in `folder` from the index."""
    for pointer in _pointers(workspace):
        if _folder(pointer) == folder:
            pointer.unlink(missing_ok=True)


def ident(folder: Path | str) -> str:
    """Return the name of a run's file in the index, which serves as its id; or the id of one of its files."""
    return hashlib.sha256(os.fspath(folder).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def at(workspace: Workspace, name: str) -> tuple[Path, Record] | None:
    """Return the run with that id; None if there is none."""
    folder = _folder(workspace.runs / name) if _IDENT.fullmatch(name) else None
    run = record.read(folder) if folder else None
    return (folder, run) if folder and run else None


def runs(workspace: Workspace) -> list[tuple[Path, Record]]:
    """Return the runs whose folders still exist, newest first."""
    found = [(folder, run) for folder in _folders(workspace) if (run := record.read(folder))]
    return sorted(found, key=lambda pair: pair[1].started, reverse=True)


def gone(workspace: Workspace) -> list[Path]:
    """Return the folders in the index that do not exist: they were moved or removed, or their disk is not mounted."""
    return [folder for folder in _folders(workspace) if not os.path.lexists(folder)]


def damaged(workspace: Workspace) -> list[Path]:
    """Return the folders in the index without a readable record; one in which a process is at work may get it yet."""
    there = (folder for folder in _folders(workspace) if folder.is_dir() and not record.read(folder))
    return [folder for folder in there if not record.is_alive(folder)]


def _folders(workspace: Workspace) -> list[Path]:
    return list(dict.fromkeys(folder for pointer in _pointers(workspace) if (folder := _folder(pointer))))


def _pointers(workspace: Workspace) -> list[Path]:
    return sorted(workspace.runs.iterdir()) if workspace.runs.is_dir() else []


def _folder(pointer: Path) -> Path | None:
    """Return the folder that an index file names; None for anything that is not a file, such as a folder."""
    try:
        return Path(pointer.read_text(encoding="utf-8", errors="replace").rstrip("\n"))
    except OSError:
        return None
