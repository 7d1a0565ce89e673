"""The schema of an upstream script, from its own parser: its flags and its dataset configuration."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_training import files, nearest
from lora_training.config.schema.model import DatasetSchema, Flag, Schema, Shape, Style, Table, from_json
from lora_training.errors import ConfigError, UpstreamError

__all__ = ["DatasetSchema", "Flag", "Schema", "Shape", "Style", "Table", "owners", "read", "read_all", "scripts"]

SCRIPT = re.compile(r"(?:[a-z0-9_]+_)?train_network")


def scripts(tree: Path) -> tuple[str, ...]:
    """Return the names of the network training scripts in `tree`, without `.py`, sorted."""
    return tuple(sorted(p.stem for p in tree.glob("*train_network.py") if SCRIPT.fullmatch(p.stem)))


def read(tree: Path, script: str, *, cache: Path | None = None) -> Schema:
    """Return the schema of `script` (with or without `.py`), from `cache` if the files it was read from are unchanged.

    A child process imports the script, with stand-ins for every package (see `child`). Raises ConfigError if the tree
    has no such script (naming the nearest), and UpstreamError if the tree is missing or cannot be read.
    """
    script = script.removesuffix(".py")
    known = scripts(tree)
    if not known:
        raise UpstreamError(f"no training script in {tree}", hint="run `lora upstream sync`")
    if script not in known:
        near = nearest.hint(script, known)
        hint = f"{near} " if near else ""
        what = f"upstream has no script `{script}`" if script else "`script` is missing"
        raise ConfigError(what, hint=f"{hint}its scripts: {', '.join(known)}")
    return _read(tree, [script], cache)[script]


def read_all(tree: Path, *, cache: Path | None = None) -> dict[str, Schema]:
    """Return the schema of every script in `tree`. Raises UpstreamError if one cannot be read."""
    return _read(tree, scripts(tree), cache)


@functools.cache
def owners(tree: Path) -> dict[str, tuple[str, ...]]:
    """Return every flag's key in `tree` with the scripts that have it."""
    found: dict[str, list[str]] = {}
    for script, schema in read_all(tree).items():
        for key in schema.keys:
            found.setdefault(key, []).append(script)
    return {key: tuple(names) for key, names in found.items()}


def _read(tree: Path, names: Sequence[str], cache: Path | None) -> dict[str, Schema]:
    known = {name: found for name in names if cache and (found := _load(cache, tree, name))}
    missing = [name for name in names if name not in known]
    if missing:
        from lora_training.config.schema import reader

        answer, looked_at = reader.read(tree, missing)
        known |= answer
        for name, found in answer.items():
            if cache:
                _store(_entry(cache, tree, name), tree, found, looked_at)
    return {name: from_json(known[name], tree) for name in names}


# -- the cache: an entry is valid while all files that it was read from are unchanged


def _load(folder: Path, tree: Path, script: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(_entry(folder, tree, script).read_bytes())
        unchanged = all(_digest(tree / path) == digest for path, digest in entry["files"].items())
        return entry["schema"] if entry["reader"] == _reader() and unchanged else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _store(path: Path, tree: Path, found: Mapping[str, Any], looked_at: Iterable[str]) -> None:
    digests = {name: _digest(tree / name) for name in looked_at}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, json.dumps({"reader": _reader(), "files": digests, "schema": found}))


def _entry(folder: Path, tree: Path, script: str) -> Path:
    # the script's digest is in the name, so that two versions of a tree do not evict each other's entry
    content = _digest(tree / f"{script}.py") or "none"
    return folder / "schemas" / f"{script}-{content[:16]}.json"


def _digest(path: Path) -> str | None:
    """Return the sha256 of a file; None for a missing file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


@functools.cache
def _reader() -> str:
    """Return a digest of the code that reads schemas: this package's source and Python's argparse."""
    whole = hashlib.sha256(sys.version.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        whole.update(path.read_bytes())
    return whole.hexdigest()
