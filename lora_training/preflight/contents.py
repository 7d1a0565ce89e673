"""The type of a file's content, by its first bytes: failed downloads, other formats, and damaged safetensors files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_training import files, safetensors_header
from lora_training.safetensors_header import Damaged

ENOUGH = 512
_PICTURES = {
    b"%!PS": "an EPS, for which Ghostscript would be started",
    b"\xc5\xd0\xd3\xc6": "an EPS, for which Ghostscript would be started",
    b"GIF8": "a GIF",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"8BPS": "a Photoshop file",
    b"%PDF": "a PDF",
}
_PAGES = (b"<!doctype html", b"<html", b"<?xml", b"<head")
_DIMENSIONS = 64  # torch's own limit
_MOST = 1 << 63
_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}
_BITS |= {"F8_E5M2": 8, "F8_E4M3": 8, "I8": 8, "U8": 8, "BOOL": 8}


def start(path: Path | str) -> bytes:
    """Return the first `ENOUGH` bytes of a file. Raises OSError."""
    with open(path, "rb", opener=files.opener_of_any) as file:
        return file.read(ENOUGH)


def kind(start: bytes) -> str | None:
    """Describe a file by its first `ENOUGH` bytes; None if they are not one of the known mistakes."""
    if not start:
        return "empty"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself"
    if start.lstrip().lower().startswith(_PAGES):
        return "a web page, not the file itself"
    return "all zeros at its start" if len(start) == ENOUGH and not any(start) else None


def image(start: bytes) -> str | None:
    """Return the name of an image format that is often found under another format's file name."""
    return next((what for magic, what in _PICTURES.items() if start.startswith(magic)), None)


def mend(kind: str) -> str:
    """Return a hint for getting the right file."""
    if "no safetensors file" in kind:
        return "give a file in the format of safetensors"
    return "`git lfs pull` fetches it" if "LFS" in kind else "fetch it again"


@dataclass(frozen=True)
class Tensor:
    """A tensor's entry in the header of a safetensors file."""

    dtype: str
    shape: tuple[int, ...]


def tensors(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a complete safetensors file, by name. Raises Damaged, and OSError."""
    first = start(path)
    other = kind(first) or ("a PyTorch checkpoint, no safetensors file" if first[:2] == b"PK" else None)
    if other:
        raise Damaged(f"is {other}")
    header = safetensors_header.read(path)
    if not all(isinstance(each, str) for each in header.metadata.values()):
        raise Damaged("has a damaged header: its metadata are no texts")
    return _complete(header.tensors, header.data)


def _complete(header: Mapping[str, Any], data: int) -> dict[str, Tensor]:
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
