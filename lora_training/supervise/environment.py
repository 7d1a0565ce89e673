"""What a run was made in: Python, the packages, the machine. Nothing heavy is imported to find out."""

from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lora_training

if TYPE_CHECKING:
    from collections.abc import Mapping

# What is told of a difference that need not change the weights, by its name in the record.
_SOFT = ("python", "platform", "packages", "gpus", "driver", "code")
_SHOWN = 5


def read() -> dict[str, Any]:
    """This Python, platform and every installed package's version; `code` is a digest of what is ours."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages(),
        "lora": lora_training.__version__,
        "code": _code(),
    }


def packages() -> dict[str, str]:
    """The version of each installed package, by its name in lower case with `-`, sorted."""
    # by the names of their folders, as the packaging standard has them: to open each one's metadata takes a while
    found: dict[str, str] = {}
    for folder in filter(None, sys.path):
        for info in Path(folder).glob("*.dist-info"):
            name, _, version = info.stem.rpartition("-")
            # the first of a name is the one that Python imports
            found.setdefault(normal(name), version)
    return dict(sorted(found.items()))


def normal(name: str) -> str:
    """A package's name as the package index compares it."""
    return name.lower().replace("_", "-").replace(".", "-")


def _code() -> str:
    """A digest of what runs inside the training process."""
    folder = Path(lora_training.__file__).parent / "runtime"
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each thing that is not what it was, and that need not make another LoRA."""
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
