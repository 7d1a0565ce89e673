"""The environment of a run: Python, the packages, the machine. Nothing heavy is imported to read it."""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lora_training

# Differences that are reported and need not change the weights: their names in the record, and in messages.
_SOFT = {name: name for name in ("python", "platform", "packages")}
_SOFT |= {"gpus": "GPUs", "driver": "GPU driver", "code": "the code in the training process"}
_SHOWN = 5
_DIGEST = re.compile("[0-9a-f]{16,64}")


def read() -> dict[str, Any]:
    """Return the versions of Python, platform and all packages; `code` is a digest of `lora_training/runtime`."""
    code = sorted((Path(lora_training.__file__).parent / "runtime").rglob("*.py"))
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages(),
        "lora": lora_training.__version__,
        "code": hashlib.sha256(b"".join(path.read_bytes() for path in code)).hexdigest(),
    }


def packages() -> dict[str, str]:
    """Return the version of each installed package, by its name in lower case with `-`, sorted."""
    # from the folders' names, which the packaging standard defines: opening each package's metadata is slow
    found: dict[str, str] = {}
    for folder in filter(None, sys.path):
        for info in Path(folder).glob("*.dist-info"):
            name, _, version = info.stem.rpartition("-")
            # if a name occurs twice, Python imports the first
            found.setdefault(normal(name), version)
    return dict(sorted(found.items()))


def normal(name: str) -> str:
    """Return a package's name as the package index normalises it."""
    return name.lower().replace("_", "-").replace(".", "-")


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for each difference that need not change the LoRA."""
    differing = {name: noun for name, noun in _SOFT.items() if name in then and then[name] != now.get(name)}
    return [f"{noun}: {_difference(then[name], now.get(name))}" for name, noun in differing.items()]


def _difference(then: Any, now: Any) -> str:
    if isinstance(then, dict) and isinstance(now, dict):
        found = changes(then, now)
        return ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if found[_SHOWN:] else "")
    return f"{short(then)} -> {short(now)}"


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the old and new value of each name whose values differ."""
    names = (name for name in sorted({*then, *now}) if then.get(name) != now.get(name))
    return [f"{name}: {short(then.get(name))} -> {short(now.get(name))}" for name in names]


def short(value: Any) -> str:
    """Return a recorded value in a few characters: the beginning of a digest or commit, the names of GPUs."""
    if isinstance(value, list):
        return ", ".join(map(short, value)) or "none"
    if isinstance(value, dict):
        return str(value.get("name", value))
    text = "none" if value is None else str(value)
    return text[:12] if _DIGEST.fullmatch(text) else text
