"""Cache schemas on disk. An entry is valid while all files that it was read from are unchanged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_training import files as safe_files
from lora_training.config.schema.source import digest, read_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping


def load(folder: Path, tree: Path, script: str) -> dict[str, Any] | None:
    """Return the cached schema for the current content of the tree, or None."""
    try:
        entry = json.loads(_path(folder, tree, script).read_bytes())
        valid = entry["reader"] == _reader() and _unchanged(tree, entry["files"])
        return entry["schema"] if valid else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def store(folder: Path, tree: Path, script: str, schema: Mapping[str, Any], files: Mapping[str, str | None]) -> None:
    """Cache a schema with the digests of the files it was read from. A failure to write is ignored."""
    path = _path(folder, tree, script)
    text = json.dumps({"reader": _reader(), "files": dict(files), "schema": dict(schema)})
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        safe_files.write(path, text)


def _path(folder: Path, tree: Path, script: str) -> Path:
    # the script's digest is in the name, so that two versions of a tree do not evict each other's entry
    content = digest(read_bytes(tree / f"{script}.py")) or "none"
    return folder / "schemas" / f"{script}-{content[:16]}.json"


def _unchanged(tree: Path, files: Mapping[str, str | None]) -> bool:
    return all(digest(read_bytes(tree / path)) == wanted for path, wanted in files.items())


@cache
def _reader() -> str:
    """Return a digest of the code that reads schemas: this package's source and Python's argparse."""
    whole = hashlib.sha256(sys.version.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        whole.update(path.read_bytes())
    return whole.hexdigest()
