"""The environment of a run: Python, the packages, the machine. Nothing heavy is imported to read it."""

from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lora_training

if TYPE_CHECKING:
    from collections.abc import Mapping

# Differences that are reported and need not change the weights, by their names in the record.
_SOFT = ("python", "platform", "packages", "gpus", "driver", "code")
_SHOWN = 5


def read() -> dict[str, Any]:
    """Return the versions of Python, platform and all packages; `code` is a digest of `lora_training/runtime`."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages(),
        "lora": lora_training.__version__,
        "code": _code(),
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


def _code() -> str:
    """Return a digest of the code that runs inside the training process."""
    folder = Path(lora_training.__file__).parent / "runtime"
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for each difference that need not change the LoRA."""
    return [
        f"{_names(name)}: {_difference(then[name], now.get(name))}"
        for name in _SOFT
        if name in then and then[name] != now.get(name)
    ]


def _names(name: str) -> str:
    return {"code": "the code in the training process", "driver": "GPU driver", "gpus": "GPUs"}.get(name, name)


def _difference(then: Any, now: Any) -> str:
    if isinstance(then, dict) and isinstance(now, dict):
        changed = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
        shown = [f"{name} {then.get(name, 'none')} -> {now.get(name, 'none')}" for name in changed[:_SHOWN]]
        more = f" and {len(changed) - _SHOWN} more" if changed[_SHOWN:] else ""
        return ", ".join(shown) + more
    return f"{_short(then)} -> {_short(now)}"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_short, value)) or "none"
    if isinstance(value, dict):
        return str(value.get("name", value))
    text = "none" if value is None else str(value)
    return text[:12] if len(text) == hashlib.sha256().digest_size * 2 else text
