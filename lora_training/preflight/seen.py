"""What was found good once stays good for as long as the file is the same: the second start is instant.

A small JSON file for each folder. A file is the same while its size, inode and times are, to the nanosecond.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_EVERY = 5.0  # seconds of work that a kill may cost


class Seen:
    """The files that `judge`, a check and what its verdict rests on, has found good.

    Where `folder` is None or cannot be written to, nothing is remembered.
    """

    def __init__(self, folder: Path | None, judge: str) -> None:
        self._folder = folder
        self._judge = judge
        self._known: dict[str, dict[str, list[int]]] = {}
        self._changed: set[str] = set()
        self._saved = time.monotonic()

    def unknown(self, paths: Iterable[str]) -> dict[str, list[int]]:
        """Those of `paths` that are still to be checked, with what to give `add` for them afterwards."""
        found = {}
        for path in paths:
            folder, name = os.path.split(path)
            if folder not in self._known:
                self._known[folder] = self._load(folder)
            signature = _signature(path)
            if not signature or self._known[folder].get(name) != signature:
                found[path] = signature
        return found

    def add(self, path: str, signature: list[int]) -> None:
        """Remember a file as good, as it was when `unknown` looked at it."""
        folder, name = os.path.split(path)
        self._known[folder][name] = signature
        self._changed.add(folder)
        if time.monotonic() - self._saved > _EVERY:
            self.save()

    def save(self) -> None:
        """Write down what is new. A cache that cannot be written is done without."""
        for folder in self._changed:
            with contextlib.suppress(OSError):
                self._store(folder)
        self._changed.clear()
        self._saved = time.monotonic()

    def _path(self, folder: str) -> Path | None:
        name = hashlib.sha256(os.fsencode(f"{self._judge}\0{folder}")).hexdigest()[:32]
        return self._folder / f"{name}.json" if self._folder else None

    def _load(self, folder: str) -> dict[str, list[int]]:
        path = self._path(folder)
        try:
            known = json.loads(path.read_bytes()) if path else {}
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _store(self, folder: str) -> None:
        path = self._path(folder)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="ascii", dir=path.parent, delete=False) as file:
            json.dump(self._known[folder], file)
        os.replace(file.name, path)


def _signature(path: str) -> list[int]:
    """What changes when the file does; empty for one that is not there."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
