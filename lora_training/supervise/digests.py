"""Digests of files, cached for as long as a file's stat does not change, and of a LoRA's tensors.

A LoRA's file differs each time, since its metadata hold the time of the training; its tensors need not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lora_training import files, stat_cache
from lora_training.supervise import result

TENSORS = "tensors.json"
# In place of a digest where a file does not exist or cannot be read.
UNREADABLE = "unreadable"
# Of a larger file, such as a model, only this many samples of this size are hashed.
LARGE = 64 * 2**20
_PIECES = 64
_PIECE = 2**18


def of(paths: Iterable[Path], cache: Path | None) -> dict[str, str]:
    """Return the digest of each file, by its path: `sha256:...`, or for a file above 64 MiB `pieces:...`.

    `cache` is the folder to cache them in, None for none. A cache that cannot be written is no error.
    """
    names = sorted({str(path) for path in paths})
    memory = stat_cache.StatCache(cache, "digests")
    new = memory.unknown(names)
    # hashing and reading both release the interpreter lock
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        read = dict(zip(new, pool.map(digest, map(Path, new)), strict=True))
    for name, found in read.items():
        if found != UNREADABLE and stat_cache.is_settled(new[name]):
            memory.add(name, new[name], found)
    memory.save()
    return {name: read[name] if name in read else memory.word(name) for name in names}


def together(digests: Mapping[str, str]) -> str:
    """Return one digest of several digests and their names."""
    return _sha256(json.dumps(dict(sorted(digests.items()))).encode())


def digest(path: Path) -> str:
    """Read one file and return its digest."""
    try:
        with open(path, "rb", opener=files.opener_of_any) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= LARGE:
                return f"sha256:{_sha256(file.read())}"
            found = hashlib.sha256(str(size).encode())
            for number in range(_PIECES):
                file.seek((size - _PIECE) * number // (_PIECES - 1))
                found.update(file.read(_PIECE))
    except OSError:
        return UNREADABLE
    return f"pieces:{found.hexdigest()}"


def whole(path: Path) -> str:
    """Return the sha256 of a file of any size."""
    return _sha256(path.read_bytes())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def of_tensors(path: Path) -> dict[str, str]:
    """Return the sha256 of each tensor of a safetensors file, with type and shape, by name. Raises TrainingError."""
    tensors = ((name, [each["dtype"], list(each["shape"])], each["data"]) for name, each in result.tensors_of(path))
    return {name: _sha256(json.dumps(form).encode() + bytes(data)) for name, form, data in sorted(tensors)}


def record_lora(path: Path, folder: Path) -> dict[str, str]:
    """Return the digests of a LoRA for the run's result; write the digest of each tensor to a file in `folder`."""
    found = of_tensors(path)
    files.write(folder / TENSORS, json.dumps(found, indent=1) + "\n")
    return {"sha256": whole(path), "tensors_sha256": together(found)}


def recorded_tensors(folder: Path) -> dict[str, str] | None:
    """Return the digests that `record_lora` wrote to `folder`, or None if they cannot be read."""
    found = files.read_json(folder / TENSORS)
    return {name: str(digest) for name, digest in found.items()} or None


def largest_difference(one: Path, other: Path) -> float:
    """Return the largest difference between two numbers in tensors of the same name and shape."""
    import numpy as np

    values = dict(result.tensors_of(one))
    largest = 0.0
    for name, tensor in result.tensors_of(other):
        same = values.get(name)
        if same is not None and same["shape"] == tensor["shape"]:
            first, second = (result.values(each).astype("f8") for each in (same, tensor))
            largest = max(largest, float(np.abs(first - second).max(initial=0.0)))
    return largest
