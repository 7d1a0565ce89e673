"""The schema of an upstream script, from its own parser: its flags and its dataset configuration."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

from lora_training import nearest
from lora_training.config.schema import cache as _cache
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
    known = {name: _cache.load(cache, tree, name) if cache else None for name in names}
    missing = [name for name, found in known.items() if found is None]
    if missing:
        from lora_training.config.schema import reader

        answer, looked_at = reader.read(tree, missing)
        known |= answer
        for name, found in answer.items():
            if cache:
                _cache.store(cache, tree, name, found, looked_at)
    return {name: from_json(found, tree) for name, found in known.items() if found}
