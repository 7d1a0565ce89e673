"""What was found out about a file holds for as long as the file is the same: the second start is instant.

A small JSON file for each folder. A file is the same while its size, inode and times are, to the nanosecond.
Shared by the checks before a start, which remember what is good, and the record, which remembers digests.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from typing import TYPE_CHECKING

from lora_training import files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_EVERY = 5.0  # seconds of work that a kill may cost
# Some file systems count in 2 seconds.
SETTLED_NS = 2_000_000_000
_CTIME = 2  # its place in a signature


_Known = dict[str, tuple[list[int], str]]


class Remembered:
    """What `judge`, a check and what its verdict rests on, has found out about files: that they are good, or a word.

    Where `folder` is None or cannot be written to, nothing is remembered.
    """

    def __init__(self, folder: Path | None, judge: str) -> None:
        self._folder = folder
        self._judge = judge
        self._known: dict[str, _Known] = {}
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
            if not signature or self._known[folder].get(name, ([], ""))[0] != signature:
                found[path] = signature
        return found

    def word(self, path: str) -> str:
        """What is remembered of a file that is not among the `unknown`."""
        folder, name = os.path.split(path)
        return self._known[folder][name][1]

    def add(self, path: str, signature: list[int], word: str = "") -> None:
        """Remember a file as good, and a word of it, as it was when `unknown` looked at it."""
        folder, name = os.path.split(path)
        self._known[folder][name] = (signature, word)
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

    def _load(self, folder: str) -> _Known:
        path = self._path(folder)
        try:
            known = json.loads(path.read_bytes()) if path else {}
            return {name: (list(signature), str(word)) for name, (signature, word) in known.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            # one that is damaged is as good as none
            return {}

    def _store(self, folder: str) -> None:
        path = self._path(folder)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, json.dumps(self._known[folder]))


def is_settled(signature: list[int]) -> bool:
    """Whether a file had been left alone for a while. One changed just now can be changed again, its times the same."""
    return bool(signature) and signature[_CTIME] < time.time_ns() - SETTLED_NS


def _signature(path: str) -> list[int]:
    """What changes when the file does; empty for one that is not there."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
