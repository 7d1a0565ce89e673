"""Describe one of upstream's flags, or one of this project's own keys."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lora_training import families, nearest
from lora_training.config import history, ours
from lora_training.config import schema as schemas
from lora_training.errors import ConfigError, UpstreamError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lora_training.config.schema import Flag, Schema


@dataclass(frozen=True)
class Explained:
    """The description of a key.

    It has the key's entry in this project's tables (`ours.described`), the flag in each script that has it, the dataset
    tables that accept it, the scripts where it has no effect, and its changes between versions.
    """

    key: str
    ours: tuple[str, str, str] | None
    flags: dict[str, Flag]
    dataset_tables: dict[str, str]
    absent: tuple[str, ...]
    inert: dict[str, str]
    changes: tuple[history.Change, ...]
    versions: tuple[str, ...]


def explain(tree: Path, key: str, *, cache: Path | None = None) -> Explained:
    """Describe `key` in an upstream tree.

    Raises ConfigError, with the nearest name, if no script has the key, and UpstreamError if the tree has no script.
    """
    key = key.lstrip("-").replace("-", "_")
    read = schemas.read_all(tree, cache=cache)
    flags = {script: flag for script, schema in read.items() if (flag := schema.flag(key))}
    if not read:
        raise UpstreamError(f"no training script in {tree}", hint="run `lora upstream sync`")
    tables = _dataset_tables(next(iter(read.values())), key)
    own = ours.described(key)
    if not flags and not tables and not own:
        known = {name for schema in read.values() for name in schema.keys} | {*ours.LAUNCH_KEYS, *ours.RUN_KEYS}
        raise ConfigError(f"upstream has no flag `{key}`", hint=nearest.hint(key, known))
    return Explained(
        key=key,
        ours=own,
        flags=flags,
        dataset_tables=tables,
        absent=tuple(script for script in read if script not in flags),
        inert={script: inert[key].reason for script in flags if key in (inert := families.of(script).inert)},
        changes=history.changes(tree, key, cache=cache),
        versions=history.versions(tree),
    )


def _dataset_tables(schema: Schema, key: str) -> dict[str, str]:
    style = schema.datasets.styles["dreambooth"]
    tables = {"[general]": schema.datasets.general, "[[datasets]]": style.dataset, "[[datasets.subsets]]": style.subset}
    for other in schema.datasets.styles.values():
        if key in other.subset.keys:
            tables["[[datasets.subsets]]"] = other.subset
    return {name: str(table.keys[key]) for name, table in tables.items() if key in table.keys}


def as_json(found: Explained) -> dict[str, Any]:
    """Return the description as JSON values."""
    return {
        "key": found.key,
        "ours": dict(zip(("table", "takes", "help"), found.ours, strict=True)) if found.ours else None,
        "scripts": {script: flag.public() for script, flag in found.flags.items()},
        "dataset_tables": found.dataset_tables,
        "absent": list(found.absent),
        "inert": found.inert,
        "versions": list(found.versions),
        "changes": [asdict(change) for change in found.changes],
    }


def lines(found: Explained) -> Iterator[str]:
    """Return the description as lines of text."""
    yield found.key
    if found.ours:
        table, takes, text = found.ours
        yield f"  in [{table}], ours: {takes}"
        yield f"    help: {text}"
    if not found.flags and not found.dataset_tables:
        return
    for flag, scripts in _grouped(found.flags):
        yield f"  in: {', '.join(scripts)}"
        yield from (f"    {name}: {text}" for name, text in _facts(flag))
    for table, shape in found.dataset_tables.items():
        yield f"  in {table}: {shape}"
    if found.flags and found.absent:
        yield f"  not in: {', '.join(found.absent)}"
    for script, reason in found.inert.items():
        yield f"  does nothing in {script}: {reason}"
    yield from _history(found)


def _grouped(flags: dict[str, Flag]) -> Iterator[tuple[Flag, list[str]]]:
    """Return each distinct definition of the flag with the scripts that share it."""
    for flag in dict.fromkeys(flags.values()):
        yield flag, [script for script, other in flags.items() if other == flag]


def _facts(flag: Flag) -> Iterator[tuple[str, str]]:
    yield "type", "switch" if flag.is_switch else (flag.type or "str") + (" list" if flag.is_list else "")
    yield "default", "none" if flag.default is None else repr(flag.default)
    if flag.choices:
        yield "choices", ", ".join(str(choice) for choice in flag.choices if choice is not None)
    if flag.help:
        yield "help", flag.english or flag.help


def _history(found: Explained) -> Iterator[str]:
    if not found.versions:
        yield "  changes: no other version of upstream is on this machine (fetch its tags to see them)"
        return
    yield f"  changes since {found.versions[0]}:" + ("" if found.changes else " none")
    for (version, what), scripts in _told(found.changes).items():
        yield f"    {version}: {what} in {', '.join(scripts)}"


def _told(changes: tuple[history.Change, ...]) -> dict[tuple[str, str], list[str]]:
    """Group equal changes: (version, change in words) -> scripts."""
    told: dict[tuple[str, str], list[str]] = {}
    for change in changes:
        fields = "; ".join(_field(name, *values) for name, values in change.fields.items())
        what = f"{change.what} ({fields})" if fields else change.what
        told.setdefault((change.version, what), []).append(change.script)
    return told


def _field(name: str, old: object, new: object) -> str:
    return "help reworded" if name == "help" else f"{name}: {old!r} -> {new!r}"
