"""Checks that a training has written a valid LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_training import files, safetensors_header
from lora_training.errors import TrainingError

_Tensors = list[tuple[str, dict[str, Any]]]
# The ends of the names of a LoRA's up matrices.
UP = ("lora_up.weight", "lora_B.weight")


@dataclass(frozen=True)
class Result:
    """A LoRA that passed the checks: its path, the number of its tensors, the steps it was trained."""

    path: Path
    tensors: int
    steps: int


_Fingerprint = tuple[int, int, int]


def fingerprint(path: Path) -> _Fingerprint | None:
    """Return inode, time and size of a file, which identify one version of it; None if it does not exist."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def check(path: Path, *, before: _Fingerprint | None, told: tuple[int, int] | None = None) -> Result:
    """Check the LoRA at `path`: written since `before`, readable, not empty, finite, not all zero, trained to the end.

    `told` is the steps done and planned as the training reported them, for a LoRA that was saved without metadata.
    Raises TrainingError that says which check failed.
    """
    if fingerprint(path) in (None, before):
        raise TrainingError(
            f"training ended without writing {path}", hint="the log says why; upstream ends so on an empty dataset, too"
        )
    return Result(path, check_values(path), _check_steps(path, told))


def check_values(path: Path) -> int:
    """Check a LoRA: readable, not empty, finite, not all zero. Return the number of its tensors."""
    tensors = tensors_of(path)
    if not tensors:
        raise TrainingError(f"{path} holds no tensors")
    check_finite(path, tensors)
    # the up matrices start at zero, so a LoRA in which all of them are zero has no effect
    ups = [tensor for name, tensor in tensors if name.endswith(UP)]
    if ups and not any(values(tensor).any() for tensor in ups):
        raise TrainingError(f"{path} changes nothing: every up matrix is zero")
    return len(tensors)


def tensors_of(path: Path) -> _Tensors:
    """Return name, `dtype`, `shape` and `data` of each tensor of a safetensors file. Raises TrainingError."""
    import safetensors

    try:
        with open(path, "rb", opener=files.opener_of_any) as file:
            found: _Tensors = safetensors.deserialize(file.read())
    except OSError as exc:
        raise TrainingError(f"{path} cannot be read: {exc.strerror}") from exc
    except MemoryError as exc:
        raise TrainingError(f"{path} cannot be read: it does not fit into memory") from exc
    except safetensors.SafetensorError as exc:
        raise TrainingError(f"{path} does not open as safetensors: {exc}") from exc
    return found


def metadata_of(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file, from its header alone; empty if they cannot be read."""
    try:
        metadata = safetensors_header.read(path).metadata
    except (OSError, safetensors_header.Damaged):
        return {}
    return {name: text for name, text in metadata.items() if isinstance(text, str)}


def is_made_by(path: Path, made_by: Mapping[str, str]) -> bool:
    """Return whether the metadata of the LoRA at `path` contain exactly `made_by`."""
    metadata = metadata_of(path)
    return all(metadata.get(f"lora_{name}") == value for name, value in made_by.items())


def check_finite(path: Path, tensors: _Tensors) -> None:
    """Raise TrainingError when one of the tensors of the file `path` has a value that is not finite."""
    import numpy as np

    for name, tensor in tensors:
        if not np.isfinite(values(tensor)).all():
            raise TrainingError(f"{path} holds values that are not finite, first in {name}")


def values(tensor: Mapping[str, Any]) -> Any:
    """Return a tensor's numbers as a flat numpy array, from its safetensors type and its bytes."""
    import numpy as np

    dtype, data = tensor["dtype"], tensor["data"]
    if dtype == "BF16":
        # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
    return np.frombuffer(data, kinds.get(dtype, "u1"))


def _check_steps(path: Path, told: tuple[int, int] | None) -> int:
    """Return the steps done, by the metadata or else by the training. Raises TrainingError unless all were done."""
    metadata = metadata_of(path)
    try:
        done, planned = int(metadata["ss_steps"]), int(metadata["ss_max_train_steps"])
    except (KeyError, ValueError) as exc:
        if told is None:
            raise TrainingError(f"neither {path} nor the training says how many steps it was trained") from exc
        done, planned = told
    if done != planned:
        raise TrainingError(f"{path} was trained for {done} of {planned} steps")
    return done
