"""Helpers of the tests of configurations."""

from __future__ import annotations

import importlib.util
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lora_training.problems import Problem

HERE = Path(__file__).resolve().parent


def needs_torch() -> None:
    """Skip where upstream itself cannot be imported."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("voluptuous") is None:
        pytest.skip("needs the training set: pip install -e .[train]")


def said(problems: tuple[Problem, ...], *words: str) -> Problem:
    """The one problem whose message or hint has all the words."""
    found = [p for p in problems if all(w in f"{p.message} {p.hint}" for w in words)]
    assert len(found) == 1, (words, [(p.message, p.hint) for p in problems])
    return found[0]


def png(grey: int) -> bytes:
    """A picture of one pixel."""
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0),
        b"IDAT": zlib.compress(bytes([0, grey])),
        b"IEND": b"",
    }
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def images(folder: Path, *, captions: str | None = ".txt", count: int = 2) -> Path:
    """A folder of images of one grey pixel, each with a caption."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(png(number % 256))
        if captions:
            (folder / f"{number}{captions}").write_text("a photo", encoding="utf-8")
    return folder
