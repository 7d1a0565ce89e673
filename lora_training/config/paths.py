"""Decide which values are paths, and resolve them.

The rule uses only upstream's names and help texts:

- a flag is a path if its type is `Path`, its name ends in one of `_ENDINGS`, or its help begins by naming a path;
- of those, a flag that upstream writes to (`output_dir`, `logging_dir`, ...) or that ends in `_dir` or `_file` is
  always a path;
- any other may be a hub id, such as `org/name`: it is a path if it looks like one (`./`, `../`, `/`, `~`, `${`, a
  file suffix) or if it exists relative to the configuration file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from lora_training import families, nearest
from lora_training.config.schema import Flag

_ENDINGS = ("_dir", "_path", "_file", "_json", "_weights", "_prompts", "_config")
_CERTAIN = ("_dir", "_file", "_json", "_prompts", "_config")
_HUB = ("_or_path", "vae", "text_encoder", "byt5", "gemma2")  # flags whose value may be a hub id
_ELSEWHERE = "_in_repo"  # a path on the hub
_HELP = re.compile(r"(?:path to|directory|saved state|[\w-]+ model path)\b", re.IGNORECASE)
_WRITTEN = re.compile(r"(?:output|logging|console_log|tokenizer_cache)_")
_EXPLICIT = re.compile(r"\.{0,2}[/\\]|~|\$\{|\.{1,2}$|[A-Za-z]:[/\\]")
_SUFFIX = re.compile(r"\.(?:safetensors|sft|ckpt|pt|pth|bin|gguf|onnx|toml|json|txt)$", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


class UnknownVariable(ValueError):
    """A path uses a variable that is not set."""

    def __init__(self, name: str, known: Mapping[str, str]) -> None:
        super().__init__(f"the environment has no variable {name!r}")
        self.hint = nearest.hint(name, known) or "set it, or write the path out"


def is_path(flag: Flag) -> bool:
    """Whether the flag's value names a file or folder."""
    if flag.is_switch or flag.choices or flag.type not in ("str", "Path", None) or flag.dest.endswith(_ELSEWHERE):
        return False
    return flag.type == "Path" or flag.dest.endswith(_ENDINGS) or bool(_HELP.match(flag.help or ""))


def is_named_path(key: str, script: str) -> bool:
    """Whether a key names a file or folder, by its name alone, as is known without upstream."""
    return key.endswith(_ENDINGS) or key in families.of(script).parts


def is_written(flag: Flag) -> bool:
    """Whether upstream creates the file or folder itself."""
    return is_path(flag) and bool(_WRITTEN.match(flag.dest))


def is_path_key(key: str) -> bool:
    """Whether a key of the dataset configuration is a path."""
    return key.endswith(("_dir", "_file"))


def resolve(flag: Flag, value: str, folder: Path, variables: Mapping[str, str]) -> str:
    """Return the value for upstream: an absolute path, or a hub id unchanged. Raises UnknownVariable."""
    certain = flag.type == "Path" or flag.dest.endswith(_CERTAIN) or is_written(flag)
    if not value or not (certain or looks_like_path(value) or exists(folder / value)):
        return value
    return absolute(value, folder, variables)


def is_hub_id(flag: Flag, value: str, folder: Path) -> bool:
    """Whether upstream would look for the value on the hub: `org/name`, and no such local path."""
    plain = value.count("/") == 1 and flag.dest.endswith(_HUB) and not looks_like_path(value)
    return plain and not exists(folder / value)


def exists(path: Path | str) -> bool:
    """Whether a file or folder exists; False for a name that the system refuses to look up."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises for a name that is too long or not accessible


def is_file(path: Path | str) -> bool:
    """Whether a regular file exists; False for a name that the system refuses to look up."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises for a name that is too long or not accessible


def looks_like_path(value: str) -> bool:
    """Whether a text can only be a path."""
    return bool(_EXPLICIT.match(value) or _SUFFIX.search(value))


def absolute(value: str, folder: Path, variables: Mapping[str, str]) -> str:
    """Expand `~` and `${NAME}` in `value` and make it absolute from `folder`. Raises UnknownVariable."""
    return os.path.normpath(folder / Path(_expand(value, variables)))


def _expand(value: str, variables: Mapping[str, str]) -> str:
    def fill(match: re.Match[str]) -> str:
        if match[1] not in variables:
            raise UnknownVariable(match[1], variables)
        return variables[match[1]]

    return os.path.expanduser(_VARIABLE.sub(fill, value))  # noqa: PTH111 - Path.expanduser raises for an unknown user
