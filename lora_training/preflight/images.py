"""Decode every image before the start: upstream fails on a broken one during training or while caching latents."""

from __future__ import annotations

import math
import os
import warnings
from typing import TYPE_CHECKING

from lora_training.preflight import checking, formats
from lora_training.preflight.finding import Finding
from lora_training.remembered import Remembered

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from lora_training.preflight.finding import Job, Progress
    from lora_training.preflight.listing import Subset

_SHOWN = 10
# conversion of these modes to RGB or RGBA, which upstream does, never fails
_PLAIN = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})


def missing(subsets: Sequence[Subset]) -> list[Finding]:
    """Return an error if there are no images at all."""
    if any(subset.images for subset in subsets):
        return []
    where = ", ".join(subset.name for subset in subsets if subset.name) or "the dataset"
    hint = "upstream would end without training anything; file endings are all in lower or all in upper case"
    return [Finding(f"there are no images in {where}", hint=hint)]


def findings(
    job: Job, subsets: Sequence[Subset], cached: Collection[str], progress: Progress, refused: Collection[str] = ()
) -> list[Finding]:
    """Return the images that do not decode. `cached` images have latents on the disk; `refused` images are left out."""
    # do not report corrupt EXIF data or very large images: they do not stop the training
    warnings.filterwarnings("ignore", module=r"PIL\.")
    paths = [path for subset in subsets for path in (*subset.images, *subset.extra) if path not in refused]
    found = checking.broken(paths, decode, Remembered(job.cache, f"images {_judge()}"), "images", progress)
    small = {path for subset in subsets for path in _passed_over(subset, found)}
    return list(_report({path: wrong for path, wrong in found.items() if path not in small}, cached))


def _report(found: dict[str, str], cached: Collection[str]) -> Iterator[Finding]:
    """Return one error for all; a warning for images with cached latents, which upstream need not open."""
    for severity, some in (
        ("error", [path for path in found if path not in cached]),
        ("warning", [path for path in found if path in cached and os.path.lexists(path)]),
    ):
        if some:
            what = "image does" if len(some) == 1 else "images do"
            tail = "" if severity == "error" else ", and only cached latents stand in"
            message = f"{len(some)} {what} not decode{tail}: {some[0]} ({found[some[0]]})"
            more = [f"{path} ({found[path]})" for path in some[1:_SHOWN]]
            more += [f"and {len(some) - _SHOWN} more"] if len(some) > _SHOWN else []
            yield Finding(message, "\n".join([*more, "mend, replace or remove them"]), severity)  # type: ignore[arg-type]


def _judge() -> str:
    import PIL

    return f"{PIL.__version__} {' '.join(formats.known())}"


def decode(path: str) -> str | None:
    """Return why upstream could not load an image, or None. Decodes all of it, as `library.utils.load_image` does."""
    from PIL import Image

    if os.path.exists(path) and not os.path.isfile(path):
        return "not a file"
    try:
        with Image.open(path, formats=formats.known()) as image:
            # at an eighth of the size a JPEG is still read to its end, with less time and memory
            image.draft("RGB", (1, 1))
            image.load()
            if image.mode not in _PLAIN:
                image.convert("RGB")
    except Image.UnidentifiedImageError:
        return _kind(path)
    except Exception as exc:  # noqa: BLE001 - each decoder raises its own exceptions
        return str(getattr(exc, "strerror", None) or exc or type(exc).__name__)
    return None


def _kind(path: str) -> str:
    from lora_training.preflight import foreign

    try:
        with open(path, "rb") as file:
            start = file.read(foreign.ENOUGH)
    except OSError as exc:
        return str(exc.strerror)
    return foreign.kind(start) or "no image that PIL knows"


def _passed_over(subset: Subset, found: Collection[str]) -> Iterator[str]:
    """Return the broken images that upstream skips by their size; a size that cannot be read counts as none."""
    if subset.passed_over:
        broken = (path for path in subset.images if path in found and os.path.exists(path))
        yield from (path for path in broken if math.prod(size(path) or (0,)) <= subset.passed_over)


def size(path: str) -> tuple[int, int] | None:
    """Return width and height from the header alone; None if they cannot be read."""
    if not os.path.isfile(path):
        return None
    from PIL import Image

    try:
        with Image.open(path, formats=formats.known()) as image:
            return (image.width, image.height)
    except (OSError, ValueError, SyntaxError):
        return None
