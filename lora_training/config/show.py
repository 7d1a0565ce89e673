"""The output formats of `lora config show`: a configuration with all overrides applied."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_training import shell
from lora_training.config import document, tomlout
from lora_training.config.argv import dataset_document, dataset_text, to_argv

if TYPE_CHECKING:
    from lora_training.config.model import Config, Entry
    from lora_training.config.positions import Path as KeyPath
    from lora_training.config.schema import Schema

DATASET_FILE = "dataset.json"


def arguments(config: Config, schema: Schema) -> list[str]:
    """Return the script's arguments, with the dataset configuration as a file in the current folder."""
    return to_argv(config, schema, dataset_config=Path(DATASET_FILE) if config.datasets else None)


def as_shell(config: Config, schema: Schema, tree: Path) -> str:
    """Return POSIX shell commands: one that writes the dataset configuration, and upstream's own command."""
    command = shell.join(["python", str(tree / f"{config.script}.py"), *arguments(config, schema)])
    document = dataset_document(config)
    text = dataset_text(document) if document else None
    return f"cat > {DATASET_FILE} <<'LORA_END'\n{text}LORA_END\n{command}\n" if text else f"{command}\n"


def as_json(config: Config, schema: Schema, *, origins: bool) -> dict[str, Any]:
    """Return the whole configuration as JSON values."""
    whole: dict[str, Any] = {
        "file": str(config.path),
        "script": config.script,
        "values": dict(config.values),
        "argv": arguments(config, schema),
        "dataset_config": dataset_document(config),
        "launch": asdict(config.launch),
        "run": asdict(config.run),
        "runtime": dict(config.runtime),
    }
    if origins:
        whole["origins"] = {key: origin(entry) for key, entry in config.entries.items()}
    return whole


def origin(entry: Entry) -> str:
    """Return the origin of a value: `file:line:column`, `LORA_NAME` or `--set key`."""
    return f"{entry.where}:{entry.position.line}:{entry.position.column}" if entry.position else entry.where


def as_toml(config: Config, *, origins: bool) -> str:
    """Return the configuration as a TOML file with the tables of the original."""
    data: dict[str, Any] = {"script": config.script}
    comments: dict[KeyPath, str] = {}
    for entry in config.entries.values():
        table = data
        for part in entry.path[:-1]:
            table = table.setdefault(str(part), {})
        table[entry.key] = entry.value
        if origins:
            place = (*entry.path[:-1], entry.key)
            comments[place] = origin(entry)
    for name in document.OURS[1:]:
        kept = _ours(config, name)
        if kept:
            data[name] = kept
    if origins:
        comments |= _overridden(config)
    return tomlout.document(data, comments)


def _ours(config: Config, name: str) -> Any:
    if name == "datasets":
        return list(config.datasets)
    if name in ("launch", "run"):
        kept = asdict(config.launch if name == "launch" else config.run)
        given = {path[1] for path in (*config.positions, *config.origins) if len(path) > 1 and path[0] == name}
        return {key: value for key, value in kept.items() if key in given and value is not None}
    return dict(config.general if name == "general" else config.runtime)


def _overridden(config: Config) -> dict[KeyPath, str]:
    return {path: where for path, where in config.origins.items() if path[0] in document.OURS}
