"""Import configurations of other trainers, with a report on every key."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lora_training import safetensors_header, shell
from lora_training.config import document, paths
from lora_training.config.importers import command, flat_toml, kohya_gui, metadata, train_lora_tool
from lora_training.config.importers.draft import Draft
from lora_training.config.schema import Schema
from lora_training.errors import ConfigError
from lora_training.files import alike, as_utf8, read_any

__all__ = ["Draft", "Source", "convert", "from_text", "read"]

_COMMAND = re.compile(r"accelerate\s+launch|train_network\.py")
_LONG_NUMBER = re.compile(r"[-+.\d][-+.:\w]{100,}")  # quadratic time to parse, with colons in base 60
_SCRIPTS = (".sh", ".bash", ".bat", ".cmd", ".ps1", ".txt", "")

# trainers that cannot be imported, with top-level keys that only their files have
_FOREIGN: dict[str, tuple[set[str], ...]] = {
    "OneTrainer": ({"training_method", "concept_file_name"}, {"__version", "optimizer", "concepts"}),
    "SimpleTuner": (
        *({"--model_family"}, {"--model_type"}, {"--data_backend_config"}),
        {"model_family", "data_backend_config"},
    ),
    "ai-toolkit": ({"job", "config"},),
    "diffusion-pipe": (
        *({"adapter", "model", "pipeline_stages"}, {"micro_batch_size_per_gpu"}),
        {"adapter", "dataset", "model"},
    ),
}


@dataclass(frozen=True)
class Source:
    """A parsed file with the module that imports its format. Paths in it are relative to `folder`."""

    importer: Any
    content: Any
    folder: Path


def convert(source: Source, schema: Callable[[str], Schema], *, script: str | None = None) -> Draft:
    """Convert a source to a configuration for `script`, or for the script that the source names.

    `schema` returns the schema of a script. If neither names a script, the most likely one is used, and the report says
    so.
    """
    importer = source.importer
    named = script or importer.script(source.content)
    draft = Draft(importer.KIND, schema(named or importer.guess(source.content)))
    if named is None:
        draft.left_out("(script)", f"the file does not say: {draft.schema.script}; --script names another")
    importer.convert(source.content, draft)
    _datasets(draft, source)
    if draft.network_args:
        draft.values["network_args"] = draft.network_args
    return draft


def _datasets(draft: Draft, source: Source) -> None:
    """Move the content of a readable `dataset_config` file into the configuration itself."""
    named = draft.values.get("dataset_config")
    if named is None or draft.datasets:
        return
    try:
        data = document.read(Path(paths.absolute(str(named), source.folder.absolute(), os.environ))).data
    except (paths.UnknownVariable, document.Unreadable):
        return  # keep the flag; the check reports the problem with the file
    datasets = data.get("datasets")
    if isinstance(datasets, list):
        draft.datasets = [item for item in datasets if isinstance(item, dict)]
        draft.general |= data.get("general", {}) if isinstance(data.get("general"), dict) else {}
        del draft.values["dataset_config"]


# -- reading a file, and detecting its format


def read(path: Path, stdin: BinaryIO | None = None) -> Source:
    """Read a file, or, if `stdin` is given, a command line from it.

    Raises ConfigError for a file that cannot be read, or whose format is unknown or not supported; the message names
    the trainer of an unsupported one.
    """
    suffix = path.suffix.lower()
    try:
        if stdin is not None:
            return Source(command, command.training(_typed(stdin).decode("utf-8-sig")), Path.cwd())
        if suffix == ".safetensors":
            return Source(metadata, _metadata(path), path.parent)
        text = read_any(path, document.MOST).decode("utf-8-sig")
    except OSError as exc:
        hint = alike(path, path.suffix, "give the path of another trainer's file")
        raise ConfigError(f"cannot read {path}: {exc.strerror}", hint=hint) from None
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path} is not UTF-8", hint=as_utf8(path, exc.object)) from None
    if suffix in (".json", ".toml", ".yaml", ".yml"):
        return from_text(path, suffix, text)
    if suffix in _SCRIPTS and _COMMAND.search(text):
        return Source(command, command.training(text), path.parent)
    raise _unknown(path)


def _typed(stdin: BinaryIO) -> bytes:
    data = stdin.read(document.MOST + 1)
    if len(data) > document.MOST:
        raise ConfigError(f"the command line is larger than {document.MOST} bytes")
    return data


def from_text(path: Path, suffix: str, text: str) -> Source:
    """Return a document whose text is known; `path` is its name in errors. Raises ConfigError."""
    content = _parsed(path, suffix, text)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is empty or a list; its settings must have names")
    _refuse_odd(path, content)
    _refuse_foreign(path, content)
    if suffix == ".toml":
        if isinstance(content.get("script"), str):
            hint = f"lora config check {shell.quote(str(path))}"
            raise ConfigError(f"{path} is already a configuration for lora", hint=hint)
        return Source(flat_toml, content, path.parent)
    if suffix == ".json":
        if "LoRA_type" in content:
            return Source(kohya_gui, content, path.parent)
        if "pretrained_model_name_or_path" in content:
            hint = "only its LoRA configurations can be taken over: they have a LoRA_type"
            raise ConfigError(f"{path} is a kohya_ss configuration, but not of a LoRA", hint=hint)
        raise _unknown(path)
    if {"training", "lora"} <= content.keys() or {"training", "dataset"} <= content.keys():
        return Source(train_lora_tool, content, path.parent)
    raise _unknown(path)


def _refuse_odd(path: Path, content: dict[str, Any]) -> None:
    if (odd := document.oddity(content)) is not None:
        raise ConfigError(f"{path} has {odd}")


def _parsed(path: Path, suffix: str, text: str) -> Any:
    if suffix == ".toml":
        return document.read(path, text).data
    try:
        return json.loads(text) if suffix == ".json" else _yaml(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{path} is not valid {suffix[1:].upper()}: {exc}") from None


def _yaml(text: str) -> Any:
    """Parse a YAML document into JSON values. Raises ValueError."""
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _refuse_growth(yaml.parse(text, Loader=loader))
        return json.loads(json.dumps(yaml.load(text, Loader=loader), default=str, skipkeys=True))  # noqa: S506 - it is safe
    except yaml.YAMLError as exc:
        raise ValueError(" ".join(str(exc).split())) from None


def _refuse_growth(events: Iterable[Any]) -> None:
    """Raise ValueError for YAML that takes far longer to build than its length suggests.

    An alias can repeat a part that has aliases itself. libyaml takes quadratic time for nesting depth.
    """
    depth = 0
    for event in events:
        kind = type(event).__name__
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        if kind == "AliasEvent":
            raise ValueError("a part that is used again (`*name`) is not taken over")
        if kind == "ScalarEvent" and _LONG_NUMBER.fullmatch(event.value):
            raise ValueError("a number of more than 100 characters")
        # the stream and the document count as well
        if depth > document.DEEPEST + 2:
            raise ValueError(f"it is nested more than {document.DEEPEST} deep")


def _refuse_foreign(path: Path, content: dict[str, Any]) -> None:
    for trainer, marks in _FOREIGN.items():
        if any(mark <= content.keys() for mark in marks):
            hint = "its settings have no counterpart in sd-scripts; begin with `lora config new`"
            raise ConfigError(f"{path} is a configuration of {trainer}, which cannot be taken over", hint=hint)


def _unknown(path: Path) -> ConfigError:
    hint = (
        "known: kohya_ss GUI JSON, lora-scripts TOML, sd-scripts --config_file, an accelerate command line, "
        "a LoRA's .safetensors, train_LoRA_tool YAML"
    )
    return ConfigError(f"{path} is of no kind that can be taken over", hint=hint)


def _metadata(path: Path) -> dict[str, str]:
    """Return the `ss_*` metadata of a safetensors file, without reading the tensors. Raises ConfigError."""
    try:
        metadata = safetensors_header.read(path, document.MOST).metadata
    except safetensors_header.Damaged as exc:
        raise ConfigError(f"{path} {exc}") from None
    named = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    _refuse_odd(path, named)
    if not named:
        raise ConfigError(f"{path} has no ss_* metadata", hint="its training did not record its settings (no_metadata)")
    return {key: str(value) for key, value in named.items()}
