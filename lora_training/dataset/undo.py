"""Write caption files so that they can be undone: former contents are kept until the next undo.

Each use is a session: a folder with the former content of each file, and a journal with a line for each write. A
session that was interrupted is continued by the next one.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from lora_training import files

_JOURNAL, _DONE = "journal.jsonl", "done"


class Session:
    """The writes of one use. `place` is the folder for the sessions of one data set."""

    def __init__(self, place: Path) -> None:
        last = newest(place)
        number = int(last.name) if last else 0
        is_open = last is not None and not (last / _DONE).exists()
        self.folder = place / str(number if is_open else number + 1)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._kept = {entry["path"]: entry["kept"] for entry in _entries(self.folder)}
        _remove_partial(self.folder)

    def write(self, path: Path, text: str) -> None:
        """Keep the present content of a file, then replace it atomically."""
        if str(path) not in self._kept:
            kept = f"{len(self._kept)}" if path.exists() else None
            if kept:
                shutil.copy2(path, self.folder / kept)
            self._kept[str(path)] = kept
        entry = {"path": str(path), "kept": self._kept[str(path)], "wrote": _digest(text.encode())}
        with (self.folder / _JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(f"\n{json.dumps(entry)}\n")  # on a line of its own also after one that is cut off
            journal.flush()
            os.fsync(journal.fileno())
        files.write(path, text)

    def finish(self) -> None:
        """Close the session: the next use begins another."""
        if self._kept:
            (self.folder / _DONE).touch()
        else:
            self.folder.rmdir()


def newest(place: Path) -> Path | None:
    """Return the last session."""
    found = [path for path in place.glob("*") if path.name.isdecimal()]
    return max(found, key=lambda path: int(path.name), default=None)


def undo(session: Path) -> tuple[list[Path], list[Path]]:
    """Restore the files of a session. Return those restored, and those left because they were edited since."""
    entries = {entry["path"]: entry for entry in _entries(session)}
    _remove_partial(session)
    restored, edited = [], []
    for name, entry in entries.items():
        path = Path(name)
        now = _digest(path.read_bytes()) if path.exists() else None
        if now == entry["wrote"]:
            _restore(path, session / entry["kept"] if entry["kept"] else None)
            restored.append(path)
        elif now != (_digest((session / entry["kept"]).read_bytes()) if entry["kept"] else None):
            edited.append(path)
    shutil.rmtree(session)
    return restored, edited


def _restore(path: Path, kept: Path | None) -> None:
    if kept is None:
        path.unlink()
        return
    partial = path.with_name(f".{path.name}.undo.partial")
    shutil.copy2(kept, partial)
    partial.replace(path)


def _entries(session: Path) -> list[dict[str, Any]]:
    try:
        lines = (session / _JOURNAL).read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    # a line that is cut off comes from a process that was killed before it wrote the file
    return [json.loads(line) for line in lines if line.endswith("}\n")]


def _remove_partial(session: Path) -> None:
    """Remove what is left of the last write of a process that was killed in it."""
    for path in [Path(entry["path"]) for entry in _entries(session)[-1:]]:
        for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
            partial.unlink()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
