"""The schema of an upstream script, from its own parser: its flags and its dataset configuration."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lora_training import nearest
from lora_training.config.schema import cache as _cache
from lora_training.config.schema.flags import Flag
from lora_training.config.schema.shapes import DatasetSchema, Shape, Style, Table
from lora_training.errors import ConfigError, UpstreamError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["DatasetSchema", "Flag", "Schema", "Shape", "Style", "Table", "owners", "read", "read_all", "scripts"]

_SCRIPT = re.compile(r"(?:[a-z0-9_]+_)?train_network")


@dataclass(frozen=True)
class Schema:
    """The flags and dataset tables that one script accepts.

    `bucket_reso_steps` must be divisible by `bucket_steps`; `tree` is the folder that was read, if it still exists.
    """

    script: str
    flags: tuple[Flag, ...] = field(repr=False)
    datasets: DatasetSchema = field(repr=False)
    bucket_steps: int = 1
    tree: Path | None = field(default=None, compare=False)

    @functools.cached_property
    def keys(self) -> dict[str, Flag]:
        """The keys that a configuration may use: each flag's dest, in the order of upstream's parser."""
        return {flag.dest: flag for flag in self.flags}

    def flag(self, key: str) -> Flag | None:
        """Return the flag for a key: its dest, or any of its options with or without dashes."""
        return self.keys.get(key) or self._options.get(key.lstrip("-").replace("-", "_"))

    @functools.cached_property
    def _options(self) -> dict[str, Flag]:
        return {option.lstrip("-").replace("-", "_"): flag for flag in self.flags for option in flag.options}


def scripts(tree: Path) -> tuple[str, ...]:
    """Return the names of the network training scripts in `tree`, without `.py`, sorted."""
    return tuple(sorted(p.stem for p in tree.glob("*train_network.py") if _SCRIPT.fullmatch(p.stem)))


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
        raise ConfigError(f"upstream has no script `{script}`", hint=f"{hint}its scripts: {', '.join(known)}")
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
    kept = {name: _cache.load(cache, tree, name) if cache else None for name in names}
    missing = [name for name, found in kept.items() if found is None]
    if missing:
        from lora_training.config.schema import buckets, reader
        from lora_training.config.schema.source import Tree

        answer = reader.read(tree, missing)
        for name, flags in answer.flags.items():
            source = Tree(tree)
            steps = buckets.required_steps(source, name)
            found = {"script": name, "flags": flags, "datasets": answer.datasets, "bucket_steps": steps}
            kept[name] = found
            if cache:
                _cache.store(cache, tree, name, found, source.seen | reader.digests(tree, answer.looked_at))
    return {name: replace(_from_json(found), tree=tree) for name, found in kept.items() if found}


def _from_json(data: dict[str, Any]) -> Schema:
    flags = tuple(map(Flag.of, data["flags"]))
    styles = {k: Style(_table(v["dataset"]), _table(v["subset"])) for k, v in data["datasets"]["styles"].items()}
    return Schema(
        data["script"], flags, DatasetSchema(_table(data["datasets"]["general"]), styles), data["bucket_steps"]
    )


def _table(raw: dict[str, Any]) -> Table:
    shapes = {key: Shape(tuple(s["scalars"]), tuple(s["sequence"])) for key, s in raw["keys"].items()}
    return Table(shapes, tuple(raw["required"]))
