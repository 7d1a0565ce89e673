"""Digests of a LoRA's tensors. The file itself differs each time, since its metadata hold the time of the training."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from lora_training import files
from lora_training.supervise import digests, result

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE = "tensors.json"


def read(path: Path) -> dict[str, str]:
    """Return the sha256 of each tensor of a safetensors file, with type and shape, by name. Raises TrainingError."""
    return {name: _digest(tensor) for name, tensor in sorted(result.tensors_of(path))}


def _digest(tensor: Mapping[str, Any]) -> str:
    head = json.dumps([tensor["dtype"], list(tensor["shape"])]).encode()
    return hashlib.sha256(head + bytes(tensor["data"])).hexdigest()


def record(path: Path, folder: Path) -> dict[str, str]:
    """Return the digests of a LoRA for the run's result; write the digest of each tensor to a file in `folder`."""
    found = read(path)
    files.write(folder / FILE, json.dumps(found, indent=1) + "\n")
    return {"sha256": digests.whole(path), "tensors_sha256": digests.together(found)}


def recorded(folder: Path) -> dict[str, str] | None:
    """Return the digests that `record` wrote to `folder`, or None if they cannot be read."""
    try:
        found = json.loads(files.read(folder / FILE))
        return {str(name): str(digest) for name, digest in found.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def farthest(one: Path, other: Path) -> float:
    """Return the largest difference between two numbers in tensors of the same name and shape."""
    import numpy as np

    values = dict(result.tensors_of(one))
    largest = 0.0
    for name, tensor in result.tensors_of(other):
        same = values.get(name)
        if same is not None and same["shape"] == tensor["shape"]:
            pair = [result.values(each["dtype"], each["data"]).astype("f8") for each in (same, tensor)]
            largest = max(largest, float(np.abs(pair[0] - pair[1]).max(initial=0.0)))
    return largest
