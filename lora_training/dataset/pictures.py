"""Look at each image once: size, kind, and a small signature by which similar images are found."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_training import files
from lora_training.preflight import images, scan
from lora_training.stat_cache import StatCache

_JUDGE = "pictures 2"
_MOST = 2**30  # bytes of an image
_ORIENTATION = 0x0112  # EXIF's tag
_SIDE = 8  # of the signature's comparisons
_COLOURS = 4
_CLOSE_BITS, _CLOSE_COLOURS = 6, 24  # of 64 bits, and of 255


@dataclass(frozen=True)
class Picture:
    """An image as upstream opens it: it ignores the orientation in EXIF, and takes the first frame alone.

    `wrong` is why it does not decode; `content` is its format if its name says another. `signature`: the signs of 64
    differences of brightness, and 16 mean colours.
    """

    path: str
    width: int = 0
    height: int = 0
    mode: str = "RGB"
    frames: int = 1
    orientation: int = 1
    has_alpha: bool = False
    signature: str = ""
    content: str = ""
    wrong: str | None = None


def survey(paths: Iterable[str], cache: Path | None, progress: Callable[[str], None]) -> dict[str, Picture]:
    """Return a picture for each path. Results are cached for as long as a file does not change."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    seen = StatCache(cache, f"{_JUDGE} {' '.join(images.formats())}")
    found = scan.texts(paths, _described, seen, "images", progress)
    return {path: Picture(path, **json.loads(text)) for path, text in found.items()}


def _described(path: str) -> str:
    wrong = images.wrong_format(path)
    if wrong is None:
        try:
            return json.dumps(_look(path))
        except Exception as exc:  # noqa: BLE001 - each decoder raises its own exceptions
            wrong = images.decode(path) or str(exc) or type(exc).__name__
    return json.dumps({"wrong": wrong})


def _look(path: str) -> dict[str, Any]:
    import numpy as np
    from PIL import Image

    named = Image.registered_extensions().get(os.path.splitext(path)[1].lower())
    with Image.open(path, formats=images.formats()) as image:
        # an MPO is a JPEG with more pictures in it, as telephones write them
        kind = "JPEG" if image.format == "MPO" else image.format
        found = {
            "content": kind if kind != named else "",
            "width": image.width,
            "height": image.height,
            "mode": image.mode,
            "frames": getattr(image, "n_frames", 1),
            "orientation": image.getexif().get(_ORIENTATION, 1),
            "has_alpha": "A" in image.getbands() or "transparency" in image.info,
        }
        # a JPEG is decoded at a part of its size, which takes less time and memory
        image.draft("RGB", (_SIDE * 8, _SIDE * 8))
        colour = image.convert("RGB")
        grey = np.asarray(colour.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX))
        mean = colour.resize((_COLOURS, _COLOURS), Image.Resampling.BOX).tobytes()
    rises = np.packbits(grey[:, :-1] < grey[:, 1:]).tobytes()
    return {**found, "signature": (rises + mean).hex()}


# -- duplicates


def same(pictures: Sequence[Picture]) -> list[list[str]]:
    """Return the groups of files with the same bytes."""
    sizes = _groups((os.path.getsize(each.path), each.path) for each in pictures if os.path.isfile(each.path))
    digests = _groups((_digest(path), path) for paths in sizes for path in paths)
    return [sorted(paths) for paths in digests]


def _groups(pairs: Iterable[tuple[Any, str]]) -> list[list[str]]:
    found: dict[Any, list[str]] = {}
    for key, path in pairs:
        found.setdefault(key, []).append(path)
    return [paths for paths in found.values() if len(paths) > 1]


def _digest(path: str) -> str:
    return hashlib.sha256(files.read_any(path, _MOST)).hexdigest()


def similar(pictures: Sequence[Picture]) -> list[list[str]]:
    """Return the groups of images that look the same: copies in another size, format or quality."""
    import numpy as np

    known = [each for each in pictures if each.signature]
    if not known:
        return []
    bits = np.array([int(each.signature[:16], 16) for each in known], np.uint64)
    colours = np.array([list(bytes.fromhex(each.signature[16:])) for each in known], np.int16)
    ones = np.array([number.bit_count() for number in range(256)], np.uint8)
    labels = np.arange(len(known))
    for number in range(len(known) - 1):
        apart = ones[(bits[number + 1 :] ^ bits[number]).view(np.uint8)].reshape(-1, 8).sum(1)
        close = number + 1 + np.flatnonzero(apart <= _CLOSE_BITS)
        close = close[np.abs(colours[close] - colours[number]).max(1) <= _CLOSE_COLOURS]
        if (labels[close] != labels[number]).any():
            labels[np.isin(labels, labels[close])] = labels[number]
    return _groups(zip(labels.tolist(), (each.path for each in known), strict=True))
