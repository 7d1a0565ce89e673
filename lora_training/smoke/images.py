"""A few generated images of coloured shapes, with captions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 64
_SUBJECTS = (
    ("circle", (220, 60, 50), (240, 235, 220)),
    ("square", (50, 110, 200), (230, 240, 245)),
    ("triangle", (60, 160, 80), (245, 240, 225)),
    ("stripe", (230, 180, 40), (60, 60, 80)),
)
_COLOURS = ("red", "blue", "green", "yellow")


def write(folder: Path, size: int = SIZE) -> None:
    """Write `SHAPE.png` (RGB, `size` pixels on each side) and `SHAPE.txt` for each shape."""
    folder.mkdir(parents=True)
    for (shape, ink, paper), colour in zip(_SUBJECTS, _COLOURS, strict=True):
        _draw(shape, ink, paper, size).save(folder / f"{shape}.png")
        caption = f"smoke, a {colour} {shape}, flat background, simple drawing\n"
        (folder / f"{shape}.txt").write_text(caption, encoding="utf-8")


def _draw(shape: str, ink: tuple[int, int, int], paper: tuple[int, int, int], size: int) -> Image.Image:
    image = Image.new("RGB", (size, size), paper)
    draw = ImageDraw.Draw(image)
    low, high = size // 4, 3 * size // 4
    match shape:
        case "circle":
            draw.ellipse((low, low, high, high), fill=ink)
        case "square":
            draw.rectangle((low, low, high, high), fill=ink)
        case "triangle":
            draw.polygon([(size // 2, low), (low, high), (high, high)], fill=ink)
        case _:
            draw.rectangle((0, low, size, size // 2), fill=ink)
    return image
