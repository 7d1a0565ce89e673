from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_training.preflight.job import Job


def job(folder: Path, *subsets: Mapping[str, Any], script: str = "train_network", **more: Any) -> Job:
    """A training with these subsets in one dataset; `more` is flags, or `cache` and `environ`."""
    document = (
        {"datasets": [{"resolution": 512, "enable_bucket": True, "subsets": [dict(subset) for subset in subsets]}]}
        if subsets
        else None
    )
    apart = {name: more.pop(name) for name in ("cache", "environ") if name in more}
    flags = {name: str(value) if isinstance(value, Path) else value for name, value in more.items()}
    return Job(script, flags, document, folder / "out" / "it.safetensors", folder, **apart)


def picture(path: Path, size: tuple[int, int] = (32, 24), mode: str = "RGB", **more: Any) -> Path:
    """A picture that takes some bytes in every format."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.effect_noise(size, 60).convert(mode)
    image.save(path, **more)
    return path


def cut(path: Path, left: float = 0.6) -> Path:
    """The end of the file is lost."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * left)])
    return path


def checkpoint(path: Path, tensors: Mapping[str, tuple[int, ...]], dtype: str = "F16") -> Path:
    """A safetensors file of zeros."""
    size = {"F16": 2, "F32": 4}[dtype]
    header, end = {}, 0
    for name, shape in tensors.items():
        start, end = end, end + size * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    return path


def nothing(text: str) -> None:
    """No progress is shown."""
