"""Write caption files so that they can be taken back: what was there is kept until the next undo.

Each use is a session: a folder with a note for each file, written before it, of its former and its new content. A
session that was interrupted is continued by the next one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from lora_training import files

_DONE = "done"


class Session:
    """The writes of one use. `place` is the folder for the sessions of one data set."""

    def __init__(self, place: Path) -> None:
        last = newest(place)
        number = int(last.name) if last else 0
        is_open = last is not None and not (last / _DONE).exists()
        self.folder = place / str(number if is_open else number + 1)
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, path: Path, text: str) -> None:
        """Write a file atomically, after a note of what is there now."""
        note = self.folder / f"{hashlib.sha256(os.fsencode(path)).hexdigest()}.json"
        old = json.loads(note.read_bytes())["old"] if note.exists() else _content(path)
        files.write(note, json.dumps({"path": str(path), "old": old, "new": text}))
        files.write(path, text)

    def finish(self) -> None:
        """Close the session: the next use begins another."""
        _remove_partial(_notes(self.folder))
        files.touch(self.folder / _DONE)


def newest(place: Path) -> Path | None:
    """Return the last session."""
    found = [path for path in place.glob("*") if path.name.isdecimal()]
    return max(found, key=lambda path: int(path.name), default=None)


def undo(session: Path) -> tuple[list[Path], list[Path]]:
    """Restore the files of a session to their former content. Return those restored, and those left as edited since."""
    restored, edited = [], []
    for note in (notes := _notes(session)):
        path, old, now = Path(note["path"]), note["old"], _content(Path(note["path"]))
        if now == note["new"] != old:
            path.unlink() if old is None else files.write(path, old)
            restored.append(path)
        elif now != old:
            edited.append(path)
    _remove_partial(notes)
    shutil.rmtree(session)
    return sorted(restored), sorted(edited)


def _content(path: Path) -> str | None:
    """Return a file's bytes as a text that `files.write` writes as the same bytes; None if it does not exist."""
    return path.read_bytes().decode("utf-8", "surrogateescape") if path.exists() else None


def _notes(session: Path) -> list[dict[str, Any]]:
    return [json.loads(note.read_bytes()) for note in session.glob("*.json")]


def _remove_partial(notes: list[dict[str, Any]]) -> None:
    """Remove what processes that were killed while they wrote these files have left."""
    paths = {Path(note["path"]) for note in notes}
    for folder in {path.parent for path in paths}:
        for partial in folder.glob(".*.partial"):  # .NAME.PID.partial
            if folder / partial.name[1:].rsplit(".", 2)[0] in paths:
                partial.unlink()
