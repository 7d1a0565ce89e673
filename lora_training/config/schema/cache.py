"""A schema on disk, good for as long as every file that it was read from is as it was."""

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
    """What `store` was given for this content of the tree, or None."""
    try:
        entry = json.loads(_path(folder, tree, script).read_bytes())
        valid = entry["reader"] == _reader() and _unchanged(tree, entry["files"])
        return entry["schema"] if valid else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def store(folder: Path, tree: Path, script: str, schema: Mapping[str, Any], files: Mapping[str, str | None]) -> None:
    """Keep a schema with the digests of the files it was read from. A cache that cannot be written is done without."""
    path = _path(folder, tree, script)
    text = json.dumps({"reader": _reader(), "files": dict(files), "schema": dict(schema)})
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        safe_files.write(path, text)


def _path(folder: Path, tree: Path, script: str) -> Path:
    # the script's own content is in the name, so that two versions of a tree do not push each other out
    content = digest(read_bytes(tree / f"{script}.py")) or "none"
    return folder / "schemas" / f"{script}-{content[:16]}.json"


def _unchanged(tree: Path, files: Mapping[str, str | None]) -> bool:
    return all(digest(read_bytes(tree / path)) == wanted for path, wanted in files.items())


@cache
def _reader() -> str:
    """What a reading depends on besides the tree: this package's source and Python's argparse."""
    whole = hashlib.sha256(sys.version.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        whole.update(path.read_bytes())
    return whole.hexdigest()
