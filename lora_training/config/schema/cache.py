"""Cache on disk of what scripts define. An entry is valid while all files that it was read from are unchanged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from lora_training import files


def load(folder: Path, tree: Path, script: str) -> dict[str, Any] | None:
    """Return the cached description of a script for the current content of the tree, or None."""
    try:
        entry = json.loads(_path(folder, tree, script).read_bytes())
        unchanged = all(_digest(tree / path) == digest for path, digest in entry["files"].items())
        return entry["schema"] if entry["reader"] == _reader() and unchanged else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def store(folder: Path, tree: Path, script: str, found: Mapping[str, Any], looked_at: Iterable[str]) -> None:
    """Cache the description of a script and the digests of the files `looked_at`. A failure to write is ignored."""
    path = _path(folder, tree, script)
    digests = {name: _digest(tree / name) for name in looked_at}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, json.dumps({"reader": _reader(), "files": digests, "schema": dict(found)}))


def _path(folder: Path, tree: Path, script: str) -> Path:
    # the script's digest is in the name, so that two versions of a tree do not evict each other's entry
    content = _digest(tree / f"{script}.py") or "none"
    return folder / "schemas" / f"{script}-{content[:16]}.json"


def _digest(path: Path) -> str | None:
    """Return the sha256 of a file; None for a missing file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


@cache
def _reader() -> str:
    """Return a digest of the code that reads schemas: this package's source and Python's argparse."""
    whole = hashlib.sha256(sys.version.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        whole.update(path.read_bytes())
    return whole.hexdigest()
