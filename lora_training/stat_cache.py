"""A cache of check results and digests by file, valid while the file's stat is unchanged.

One small JSON file per folder. A file counts as unchanged while its size, inode and times are the same, to the
nanosecond. Used by the checks before a start for files without problems, and by the record for digests.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from lora_training import files

_EVERY = 5.0  # seconds of work that are lost at most when the process is killed
# Some file systems store times in steps of 2 seconds.
SETTLED_NS = 2_000_000_000
_CTIME = 2  # its index in a signature


_Known = dict[str, tuple[list[int], str]]


class StatCache:
    """The cached results of one check: that a file is good, or a text. `judge` names the check and its parameters.

    Nothing is cached where `folder` is None or is not writable.
    """

    def __init__(self, folder: Path | None, judge: str) -> None:
        self._folder = folder
        self._judge = judge
        self._known: dict[str, _Known] = {}
        self._changed: set[str] = set()
        self._saved = time.monotonic()

    def unknown(self, paths: Iterable[str]) -> dict[str, list[int]]:
        """Return the `paths` without a valid entry, each with its signature for `add`."""
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
        """Return the cached text of a file that is not among the `unknown`."""
        folder, name = os.path.split(path)
        return self._known[folder][name][1]

    def add(self, path: str, signature: list[int], word: str = "") -> None:
        """Cache a file as good, with a text, under the signature that `unknown` returned for it."""
        folder, name = os.path.split(path)
        self._known[folder][name] = (signature, word)
        self._changed.add(folder)
        if time.monotonic() - self._saved > _EVERY:
            self.save()

    def save(self) -> None:
        """Write new entries to the disk. Errors are ignored: the cache is optional."""
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
            # a damaged cache file counts as empty
            return {}

    def _store(self, folder: str) -> None:
        path = self._path(folder)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, json.dumps(self._known[folder]))


def is_settled(signature: list[int]) -> bool:
    """Return whether a file's last change is old enough: a later change would show in its times."""
    return bool(signature) and signature[_CTIME] < time.time_ns() - SETTLED_NS


def _signature(path: str) -> list[int]:
    """Return the stat values that change with the file; empty if it does not exist."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
