"""What files hold, as digests that are remembered for as long as a file is the same to the nanosecond."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

# In place of a digest where a file is not there or cannot be read.
UNREADABLE = "unreadable"
# Of a larger file, such as a model, this many pieces of this size stand for the whole.
LARGE = 64 * 2**20
_PIECES = 64
_PIECE = 2**18
# A file that was changed just now can be changed once more with the same times; some file systems count in 2 seconds.
_SETTLED_NS = 2_000_000_000

_Known = dict[str, tuple[str, str]]


def of(paths: Iterable[Path], cache: Path | None) -> dict[str, str]:
    """The digest of each file, by its path: `sha256:...`, or of a file above 64 MiB `pieces:...`.

    `cache` is a folder to remember them in, None for none; one that cannot be written to is no error.
    """
    folders: dict[Path, list[Path]] = {}
    for path in sorted(set(paths)):
        folders.setdefault(path.parent, []).append(path)
    found: dict[str, str] = {}
    # hashing and reading both let go of the interpreter
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for folder, files in folders.items():
            memory = cache / f"{_sha256(os.fsencode(folder))[:24]}.json" if cache else None
            found |= _in_folder(files, memory, pool)
    return found


def together(digests: Mapping[str, str]) -> str:
    """One digest of many, by their names."""
    return _sha256(json.dumps(dict(sorted(digests.items()))).encode())


def _in_folder(files: list[Path], memory: Path | None, pool: ThreadPoolExecutor) -> dict[str, str]:
    known = _recall(memory) if memory else {}
    signatures = {path.name: _signature(path) for path in files}
    new = [path for path in files if known.get(path.name, ("", ""))[0] != signatures[path.name]]
    read = dict(zip((path.name for path in new), pool.map(digest, new), strict=True))
    if memory and read:
        kept = {path.name: (signatures[path.name], read[path.name]) for path in new if _is_settled(path)}
        _remember(memory, known | kept)
    return {str(path): read.get(path.name) or known[path.name][1] for path in files}


def digest(path: Path) -> str:
    """The digest of one file, which is read."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= LARGE:
                return f"sha256:{_sha256(file.read())}"
            found = hashlib.sha256(str(size).encode())
            for number in range(_PIECES):
                file.seek((size - _PIECE) * number // (_PIECES - 1))
                found.update(file.read(_PIECE))
    except OSError:
        return UNREADABLE
    return f"pieces:{found.hexdigest()}"


def whole(path: Path) -> str:
    """The sha256 of a file of any size."""
    return _sha256(path.read_bytes())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _signature(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "-"
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _is_settled(path: Path) -> bool:
    try:
        return path.stat().st_ctime_ns < time.time_ns() - _SETTLED_NS
    except OSError:
        return False


def _recall(memory: Path) -> _Known:
    try:
        kept = json.loads(memory.read_text(encoding="utf-8"))
        return {str(name): (str(signature), str(found)) for name, (signature, found) in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(memory: Path, known: _Known) -> None:
    draft = memory.with_name(f"{memory.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(known), encoding="utf-8")
        draft.replace(memory)
