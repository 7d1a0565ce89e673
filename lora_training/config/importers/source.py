"""Reading a file of another trainer, and telling whose it is."""

from __future__ import annotations

import json
import re
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_training.config import nesting
from lora_training.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_HEADER_LIMIT = 100_000_000  # safetensors' own limit for its header, in bytes
_COMMAND = re.compile(r"accelerate\s+launch|[\w/\\.-]*train_network\.py")
_SCRIPTS = (".sh", ".bash", ".bat", ".cmd", ".ps1", ".txt", "")

# keys that only one trainer's files have at their top
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
    """A file that was read: its format and content.

    `kind` is `kohya_ss`, `toml`, `command`, `metadata` or `train_LoRA_tool`; paths are relative to `folder`.
    """

    kind: str
    content: Any
    folder: Path


def read(path: Path, stdin: str | None = None) -> Source:
    """Read a file; `stdin`, when given, is a command line to read instead.

    Raises ConfigError for a file that cannot be read, is of no known kind, or is of a trainer that we cannot carry
    over, which is named.
    """
    if stdin is not None:
        return Source("command", stdin, Path.cwd())
    suffix = path.suffix.lower()
    try:
        if suffix == ".safetensors":
            return Source("metadata", _metadata(path), path.parent)
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8") from None
    if suffix in (".json", ".toml", ".yaml", ".yml"):
        return _document(path, suffix, text)
    if suffix in _SCRIPTS and _COMMAND.search(text):
        return Source("command", text, path.parent)
    raise _unknown(path)


def _document(path: Path, suffix: str, text: str) -> Source:
    content = _parsed(path, suffix, text)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no settings by name")
    if nesting.too_deep(content):
        raise ConfigError(f"{path} is nested more than {nesting.LIMIT} deep")
    _refuse_foreign(path, content)
    if suffix == ".toml":
        if isinstance(content.get("script"), str):
            raise ConfigError(f"{path} is a configuration of ours already", hint=f"lora config check {path}")
        return Source("toml", content, path.parent)
    if suffix == ".json":
        if "LoRA_type" in content:
            return Source("kohya_ss", content, path.parent)
        if "pretrained_model_name_or_path" in content:
            hint = "only its LoRA configurations can be taken over: they have a LoRA_type"
            raise ConfigError(f"{path} is a kohya_ss configuration, but not of a LoRA", hint=hint)
        raise _unknown(path)
    if {"training", "lora"} <= content.keys() or {"training", "dataset"} <= content.keys():
        return Source("train_LoRA_tool", content, path.parent)
    raise _unknown(path)


def _parsed(path: Path, suffix: str, text: str) -> Any:
    try:
        if suffix == ".json":
            return json.loads(text)
        if suffix == ".toml":
            return tomllib.loads(text)
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as exc:
            raise ValueError(" ".join(str(exc).split())) from None
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{path} is not valid {suffix[1:].upper()}: {exc}") from None


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
    """The metadata in a safetensors file's header; the tensors are not read. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, _HEADER_LIMIT)))
        metadata = header.get("__metadata__", {})
        found = {str(key): str(value) for key, value in metadata.items() if str(key).startswith("ss_")}
    except (struct.error, ValueError, AttributeError, RecursionError) as exc:
        raise ConfigError(f"{path} is no safetensors file: {exc}") from None
    if not found:
        raise ConfigError(f"{path} has no ss_* metadata", hint="its training did not record its settings (no_metadata)")
    return found
