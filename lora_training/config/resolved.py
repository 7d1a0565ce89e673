"""Write a configuration as a self-contained file: all overrides applied, every path absolute."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from lora_training.config import encode, tomlout
from lora_training.config.argv import dataset_document

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lora_training.config.model import Config
    from lora_training.config.schema import Schema

HEADING = "flags"
_COMMENT = (
    "What the run was started with, for `lora runs rerun`: the file, the environment and --set in one, paths absolute."
)


def toml(config: Config, schema: Schema, *, processes: int | None, runtime: Mapping[str, Any]) -> str:
    """Return the file's text. It yields the same flags and dataset configuration, in the same order.

    `processes` replaces `auto`, which stays if it is None; `runtime` has every runtime patch, with its settings or
    switched off. `[run] resume` is left out.
    """
    parts = [tomlout.comment([_COMMENT]), f"script = {tomlout.value(config.script)}", "", f"[{HEADING}]"]
    parts += [f"{key} = {tomlout.value(value)}" for key, value in _flags(config, schema)]
    launch = config.launch
    if launch.num_processes == "auto" and processes is not None:
        launch = replace(launch, num_processes=processes)
    run = {key: value for key, value in asdict(config.run).items() if key != "resume"}
    ours = {"launch": _given(asdict(launch)), "run": _given(run), "runtime": dict(runtime)}
    tail = tomlout.document({name: table for name, table in ours.items() if table})
    return _datasets("\n".join(parts), dataset_document(config), tail)


def _flags(config: Config, schema: Schema) -> Iterator[tuple[str, Any]]:
    """Return the flags in the order in which upstream gets them."""
    for key, entry in config.entries.items():
        flag = schema.flag(key)
        yield key, encode.resolved(flag, entry, config.folder, config.variables) if flag else entry.value


def _given(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}


def _datasets(head: str, data: dict[str, Any] | None, tail: str) -> str:
    """Write the datasets as TOML tables, or inline if tables would change the order of keys."""
    if data is None:
        return f"{head}\n\n{tail}"
    laid_out = f"{head}\n\n{tomlout.document(data)}\n{tail}"
    if json.dumps({name: value for name, value in parsed(laid_out).items() if name in data}) == json.dumps(data):
        return laid_out
    first, _, rest = head.partition(f"[{HEADING}]")
    lines = "\n".join(f"{name} = {tomlout.value(value)}" for name, value in data.items())
    return f"{first}{lines}\n\n[{HEADING}]{rest}\n\n{tail}"


def parsed(text: str) -> dict[str, Any]:
    """Parse such a file. Raises ValueError if it is not valid TOML."""
    from lora_training import tomls

    return tomls.loads(text)
