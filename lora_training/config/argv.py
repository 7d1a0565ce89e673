"""Convert a configuration to upstream's command line and dataset configuration."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from lora_training import nearest
from lora_training.config import document, encode, paths, tables
from lora_training.config import schema as schemas
from lora_training.config.model import Config, Entry
from lora_training.config.positions import Path as KeyPath
from lora_training.config.schema import Schema
from lora_training.errors import ConfigError
from lora_training.problems import Problem

# Upstream copies the content of the first two files into its parsed arguments unchecked, and loads states unchecked.
_RESUME = "name the folder of a state in `[run] resume` or `--resume`: it is checked before the start"
REFUSED = {
    "config_file": "convert such a file with `lora config import`",
    "output_config": "print the whole configuration with `lora config show --as toml`",
    "resume": _RESUME,
    "resume_from_huggingface": f"fetch the state first, then {_RESUME}",
}


def to_argv(
    config: Config, schema: Schema, *, dataset_config: Path | None = None, without: Collection[str] = ()
) -> list[str]:
    """Return the script's arguments in the file's order, `--dataset_config` last, without the keys in `without`.

    Raises ConfigError for the first value that upstream's parser would refuse.
    """
    argv = []
    for entry in config.entries.values():
        if entry.key in without:
            continue
        found = encoded(config, schema, entry)
        if isinstance(found, Problem):
            raise ConfigError(str(found), hint=found.hint)
        argv += found
    return argv + (["--dataset_config", str(dataset_config)] if dataset_config else [])


def flag_values(config: Config, schema: Schema) -> dict[str, Any]:
    """Return the value of each flag by its name in upstream, with paths made absolute.

    Raises ConfigError for a path that names an unknown variable.
    """
    flags = [(schema.flag(entry.key), entry) for entry in config.entries.values()]
    try:
        return {flag.dest: encode.resolved(flag, entry, config.resolve) for flag, entry in flags if flag}
    except encode.Refused as exc:
        raise ConfigError(exc.message, hint=exc.hint) from None


def encoded(config: Config, schema: Schema, entry: Entry) -> list[str] | Problem:
    """Return the arguments for one entry, or the problem with it."""
    flag = schema.flag(entry.key)
    if flag is None:
        message = f"upstream's {schema.script} has no flag `{entry.key}`"
        return config.problem(message, entry.path, hint=_unknown_hint(schema, entry))
    if flag.dest in REFUSED:
        return config.problem(f"`{flag.dest}` is not passed on", entry.path, hint=REFUSED[flag.dest])
    try:
        return encode.words(flag, entry, config.resolve)
    except encode.Refused as exc:
        return config.problem(exc.message, (*entry.path, *exc.path), hint=exc.hint)


def _unknown_hint(schema: Schema, entry: Entry) -> str | None:
    """Return a hint for a key that upstream does not know, such as the nearest known key."""
    if isinstance(entry.value, dict):
        flags = [flag.dest for flag in schema.flags if flag.is_list]
        return nearest.hint(entry.key, flags) or "remove this table: only flags that take key=value lists have one"
    style = schema.datasets.styles["dreambooth"]
    home = tables.table_of(entry.key)
    if home:
        return f"put `{entry.key}` under [{home}]"
    if entry.key in style.dataset.keys or entry.key in style.subset.keys:
        inside = "subsets.0." if entry.key in style.subset.keys else ""
        place = "" if entry.position else f": --set datasets.0.{inside}{entry.key}=..."
        return f"put `{entry.key}` under [[datasets]]{place}"
    others = schemas.owners(schema.tree).get(entry.key) if schema.tree else None
    if others:
        return f"remove it: only {', '.join(others)} {'has' if len(others) == 1 else 'have'} it"
    if near := nearest.hint(entry.key, schema.keys):
        return near
    # the heading may be a misspelling of one of this project's tables
    heading = str(entry.path[0]) if len(entry.path) > 1 else ""
    table = nearest.name(heading, ("launch", "run", "runtime", "datasets")) if heading else None
    return f"did you mean the table [{table}] instead of [{heading}]?" if table and table != heading else None


def dataset_document(config: Config) -> dict[str, Any] | None:
    """Return upstream's dataset configuration, with absolute paths; None when there are no datasets.

    Raises ConfigError for a path that names an unknown variable.
    """
    if not config.datasets:
        return None
    whole: dict[str, Any] = {"general": dict(config.general)} if config.general else {}
    # a copy, with dates and times, which JSON lacks, as strings
    whole = json.loads(json.dumps({**whole, "datasets": config.datasets}, default=str))
    path: KeyPath = ()
    try:
        for path, text in list(dataset_paths(whole)):
            document.value_at(whole, path[:-1])[path[-1]] = config.absolute(text)
    except paths.UnknownVariable as exc:
        problem = config.problem(str(exc), path, hint=exc.hint)
        raise ConfigError(str(problem), hint=problem.hint) from None
    return whole


def dataset_paths(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield the paths in a dataset configuration, each with its key path."""
    for keys, text in document.texts(data):
        if "custom_attributes" not in keys and paths.is_path_key(str(keys[-1])):
            yield keys, text


def dataset_text(data: Mapping[str, Any]) -> str:
    """Return a dataset configuration as the text of a JSON file, whose name must end in `.json`.

    JSON, because upstream reads TOML with toml 0.10.2, which has bugs.
    """
    return json.dumps(data, indent=2) + "\n"
