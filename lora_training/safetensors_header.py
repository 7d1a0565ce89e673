"""Read the header of a safetensors file, without its tensors' data.

The format: the header's length in eight bytes, little-endian; the header, a JSON object; then the tensors' data.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_training import files

LONGEST = 100_000_000  # the limit of the safetensors library
_PREFIX = 8


class Damaged(Exception):
    """The file is not a whole safetensors file. The message is a predicate, such as `is cut off`."""


@dataclass(frozen=True)
class Header:
    """The entry of each tensor by name, the metadata, and the number of bytes after the header.

    The library requires text as metadata, which is not checked here.
    """

    tensors: Mapping[str, Any]
    metadata: Mapping[str, Any]
    data: int


def read(path: Path, most: int = LONGEST) -> Header:
    """Return the header of a file. Raises Damaged, also for a header of more than `most` bytes, and OSError."""
    with open(path, "rb", opener=files.opener_of_any) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(_PREFIX + 1)
        length = int.from_bytes(start[:_PREFIX], "little")
        if length > LONGEST or start[_PREFIX:] not in (b"{", b" ", b""):
            raise Damaged("is no safetensors file")
        if size < _PREFIX + length:
            raise Damaged(f"is cut off in its header, after {size} bytes")
        if length > most:
            raise Damaged(f"has a header of {length} bytes, more than {most}")
        file.seek(_PREFIX)
        header = _parsed(file.read(length))
    return Header(header, header.pop("__metadata__", None) or {}, size - _PREFIX - length)


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise Damaged(f"has a damaged header: {exc}") from exc
    if not isinstance(found, dict) or not isinstance(found.get("__metadata__") or {}, dict):
        raise Damaged("has a damaged header")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
