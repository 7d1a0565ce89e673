"""A configuration with all overrides applied: as TOML, JSON, shell lines, and as a file that stands alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lora_training import shell, tomls
from lora_training.config import document, encode, loading, paths
from lora_training.config.argv import dataset_document, dataset_text, encoded, to_argv
from lora_training.config.model import Config
from lora_training.config.positions import Path as KeyPath
from lora_training.config.schema import Schema

DATASET_FILE = "dataset.json"
_FLAGS = "flags"  # the table of all flags in a resolved configuration
_COMMENT = (
    "What the run was started with, for `lora runs rerun`: the file, the environment and --set in one, paths absolute."
)


def arguments(config: Config, schema: Schema) -> list[str]:
    """Return the script's arguments, with the dataset configuration as a file in the current folder."""
    return to_argv(config, schema, dataset_config=Path(DATASET_FILE) if config.datasets else None)


def arguments_with_origins(config: Config, schema: Schema) -> Iterator[str]:
    """Yield a shell line for each key: its arguments, and where its value comes from."""
    arguments(config, schema)  # raises for a value that cannot be passed as an argument
    for entry in config.entries.values():
        words = encoded(config, schema, entry)
        text = shell.join(words) if isinstance(words, list) and words else f"(no {entry.key})"
        yield f"{text}  # {entry.origin}"


def as_shell(config: Config, schema: Schema, tree: Path) -> str:
    """Return POSIX shell commands: one that writes the dataset configuration, and upstream's own command."""
    command = shell.join(["python", str(tree / f"{config.script}.py"), *arguments(config, schema)])
    dataset = dataset_document(config)
    written = f"cat > {DATASET_FILE} <<'LORA_END'\n{dataset_text(dataset)}LORA_END\n" if dataset else ""
    return f"{written}{command}\n"


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
        whole["origins"] = {key: entry.origin for key, entry in config.entries.items()}
    return whole


def as_toml(config: Config, *, origins: bool) -> str:
    """Return the configuration as a TOML file with the tables of the original."""
    data: dict[str, Any] = {"script": config.script}
    comments: dict[KeyPath, str] = {}
    for entry in config.entries.values():
        table = data
        for part in entry.path[:-1]:
            table = table.setdefault(str(part), {})
        table[entry.key] = entry.value
        place = (*entry.path[:-1], entry.key)
        comments[place] = entry.origin
    own = {
        "datasets": list(config.datasets),
        "general": dict(config.general),
        "launch": _given(config, "launch"),
        "run": _given(config, "run"),
        "runtime": dict(config.runtime),
    }
    data |= {name: table for name, table in own.items() if table}
    comments |= {path: where for path, where in config.origins.items() if path[0] in loading.TABLES}
    return document.toml(data, comments if origins else None)


def _given(config: Config, name: str) -> dict[str, Any]:
    """Return the settings of `[launch]` or `[run]` that the configuration gives."""
    given = {path[1] for path in (*config.positions, *config.origins) if len(path) > 1 and path[0] == name}
    return {key: value for key, value in _set(getattr(config, name)).items() if key in given}


def _set(table: Any) -> dict[str, Any]:
    return {key: value for key, value in asdict(table).items() if value is not None}


# -- a file that stands alone


def resolved(config: Config, schema: Schema, *, processes: int | None, runtime: Mapping[str, Any]) -> str:
    """Return a file that yields the same flags and dataset configuration anywhere, in the same order.

    `processes` replaces `auto`, which stays if it is None; `runtime` has every runtime patch, with its settings or
    switched off. `[run] resume` is left out.
    """
    parts = [document.toml_comment([_COMMENT]), f"script = {document.toml_value(config.script)}", "", f"[{_FLAGS}]"]
    for key, entry in config.entries.items():
        flag = schema.flag(key)
        value = encode.resolved(flag, entry, config.resolve) if flag else entry.value
        parts.append(f"{key} = {document.toml_value(value)}")
    launch = config.launch
    if launch.num_processes == "auto" and processes is not None:
        launch = replace(launch, num_processes=processes)
    run = {key: value for key, value in _set(config.run).items() if key != "resume"}
    own = {"launch": _set(launch), "run": run, "runtime": dict(runtime)}
    tail = document.toml({name: table for name, table in own.items() if table})
    return _with_datasets("\n".join(parts), dataset_document(config), tail)


def _with_datasets(head: str, data: dict[str, Any] | None, tail: str) -> str:
    """Write the datasets as TOML tables, or inline if tables would change the order of keys."""
    if data is None:
        return f"{head}\n\n{tail}"
    text = f"{head}\n\n{document.toml(data)}\n{tail}"
    if json.dumps({name: value for name, value in tomls.loads(text).items() if name in data}) == json.dumps(data):
        return text
    first, _, rest = head.partition(f"[{_FLAGS}]")
    lines = "\n".join(f"{name} = {document.toml_value(value)}" for name, value in data.items())
    return f"{first}{lines}\n\n[{_FLAGS}]{rest}\n\n{tail}"


# -- effects of a configuration besides training


def side_effects(config: Config, schema: Schema) -> str | None:
    """Describe uploads, downloads and permission to run code, without any secret; None if there is none of these."""
    parts = [*_uploads(config), *_downloads(config, schema)]
    parts += ["lets pickled weights run code"] if config.run.allow_pickle else []
    return f"this configuration {'; '.join(parts)}" if parts else None


def _uploads(config: Config) -> Iterator[str]:
    values = config.values
    if values.get("huggingface_repo_id"):
        seen = "public" if values.get("huggingface_repo_visibility") == "public" else "private"
        what = "every LoRA and state" if values.get("save_state_to_huggingface") is True else "every LoRA"
        later = ", while it trains on" if values.get("async_upload") is True else ""
        yield f"sends {what} to {values['huggingface_repo_id']} on the Hugging Face hub ({seen}{later})"
    if values.get("log_with") in ("wandb", "all"):
        yield "sends its settings, figures and samples to wandb"
    thumbnail = values.get("metadata_thumbnail")
    if isinstance(thumbnail, str) and thumbnail and not thumbnail.startswith("data:"):
        yield f"puts the whole of {thumbnail} into the LoRA"


def _downloads(config: Config, schema: Schema) -> Iterator[str]:
    for key, value in config.values.items():
        flag = schema.flag(key)
        if flag and paths.is_path(flag) and isinstance(value, str) and paths.is_hub_id(flag, value, config.folder):
            yield f"fetches {value} from the Hugging Face hub"
