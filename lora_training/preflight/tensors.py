"""Read the header of a safetensors file and check that the file is complete.

The format: the header's length in eight bytes, little-endian; the header, a JSON object; then the tensors' data.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_training import files
from lora_training.preflight import foreign

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LONGEST = 100_000_000  # the limit of the safetensors library
_PREFIX = 8
_DIMENSIONS = 64  # torch's own limit
_MOST = 1 << 63
_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}
_BITS |= {"F8_E5M2": 8, "F8_E4M3": 8, "I8": 8, "U8": 8, "BOOL": 8}


class Damaged(Exception):
    """The file cannot be loaded; the message describes the damage, or the actual content."""


@dataclass(frozen=True)
class Tensor:
    """A tensor's entry in the header."""

    dtype: str
    shape: tuple[int, ...]


def read(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a complete file, by name. Raises Damaged, and OSError if it cannot be read."""
    size = path.stat().st_size
    with open(path, "rb", opener=files.opener_of_any) as file:
        start = file.read(foreign.ENOUGH)
        other = foreign.kind(start) or ("a PyTorch checkpoint, named .safetensors" if start[:2] == b"PK" else None)
        if other:
            raise Damaged(f"is {other}")
        length = int.from_bytes(start[:_PREFIX], "little")
        if length > _LONGEST or start[_PREFIX : _PREFIX + 1] not in (b"{", b" ", b""):
            raise Damaged("is no safetensors file")
        if size < _PREFIX + length:
            raise Damaged(f"is cut off in its header, after {size} bytes")
        file.seek(_PREFIX)
        header = _header(file.read(length))
    return _tensors(header, size - _PREFIX - length)


def _header(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise Damaged(f"has a damaged header: {exc}") from exc
    if not isinstance(found, dict):
        raise Damaged("has a damaged header")
    metadata = found.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(each, str) for each in metadata.values()):
        raise Damaged("has a damaged header: its metadata are no texts")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _tensors(header: dict[str, Any], data: int) -> dict[str, Tensor]:
    """Return the tensors of a header whose data must fill `data` bytes without gaps or overlaps."""
    try:
        found = {name: Tensor(str(raw["dtype"]), _counts(raw["shape"])) for name, raw in header.items()}
        spans = {name: _counts(raw["data_offsets"]) for name, raw in header.items()}
        ends = [0, *sorted(end for _, end in spans.values())]
    except (TypeError, ValueError, KeyError) as exc:
        raise Damaged("has a damaged header") from exc
    end = ends[-1]
    if data < end:
        raise Damaged(f"is cut off: {end - data} of {end} bytes are missing")
    if data > end:
        raise Damaged(f"has {data - end} bytes too many")
    for name, tensor in found.items():
        bits = _BITS.get(tensor.dtype)
        if bits and math.prod(tensor.shape) * bits != 8 * (spans[name][1] - spans[name][0]):
            raise Damaged(f"has a damaged header: {name} has another size than its shape")
    if sorted(begin for begin, _ in spans.values()) != ends[:-1]:
        raise Damaged("has a damaged header: its tensors overlap, or leave gaps")
    return found


def _counts(raw: Any) -> tuple[int, ...]:
    """Return a shape or a pair of offsets. Raises ValueError if `raw` is not a list of sizes."""
    if not isinstance(raw, list) or len(raw) > _DIMENSIONS:
        raise ValueError(raw)
    if not all(type(each) is int and 0 <= each < _MOST for each in raw):
        raise ValueError(raw)
    return tuple(raw)
