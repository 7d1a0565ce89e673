"""Check every image: upstream fails on a broken one during training or while caching latents.

PIL goes by the content, not by the name: for an EPS named `a.png`, it would start Ghostscript. So the format of the
content is checked before PIL opens a file.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec

from lora_training.preflight import contents, listing, scan
from lora_training.preflight.job import Job, Progress
from lora_training.preflight.listing import Subset
from lora_training.problems import Problem
from lora_training.stat_cache import StatCache

_START = 16  # bytes by which PIL tells formats apart
# conversion of these modes to RGB or RGBA, which upstream does, never fails
_PLAIN = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})


@cache
def formats() -> tuple[str, ...]:
    """Return PIL's names for the formats of the file suffixes that upstream lists."""
    from PIL import Image

    endings = listing.extensions()  # also imports the plugins for formats that PIL lacks
    Image.init()
    names = Image.registered_extensions()
    return tuple(dict.fromkeys(names[ending] for ending in endings if ending in names))


def refused(job: Job, subsets: Sequence[Subset], progress: Progress) -> dict[str, str]:
    """Return the images in other formats, pipes and devices, with reasons; also images whose latents are cached."""
    if find_spec("PIL") is None:
        return {}
    seen = StatCache(job.cache, f"formats 1 {' '.join(formats())}")
    paths = [path for subset in subsets for path in (*subset.images, *subset.extra)]
    return scan.broken(paths, wrong_format, seen, "formats of images", progress)


def refusals(found: Mapping[str, str]) -> Iterator[Problem]:
    """Yield one error for all refused images."""
    known = ", ".join(formats()) if found else ""
    cure = "save them anew in one of these formats, or remove them"
    yield from scan.problems(found, f"image is not {known}", f"images are not {known}", cure)


def wrong_format(path: str) -> str | None:
    """Return why PIL must not open a file, or None. Missing files and files that are no image are checked elsewhere."""
    from PIL import Image

    try:
        start = contents.start(path)
    except FileNotFoundError:
        return None
    except OSError as exc:
        return exc.strerror
    accepts = [Image.OPEN[name][1] for name in formats()]
    if contents.kind(start) or any(accept is None or accept(start[:_START]) for accept in accepts):
        return None
    return contents.image(start) or "another format, by its first bytes"


def missing(subsets: Sequence[Subset]) -> list[Problem]:
    """Return an error if there are no images at all."""
    if any(subset.images for subset in subsets):
        return []
    where = ", ".join(subset.name for subset in subsets if subset.name) or "the dataset"
    hint = "upstream would end without training anything; file endings are all in lower or all in upper case"
    return [Problem(f"there are no images in {where}", hint=hint)]


def problems(
    job: Job, subsets: Sequence[Subset], cached: Collection[str], progress: Progress, refused: Collection[str] = ()
) -> Iterator[Problem]:
    """Yield the images that do not decode. `cached` images have latents on the disk; `refused` images are left out.

    For images with cached latents, which upstream need not open, it is a warning.
    """
    import PIL

    # do not report corrupt EXIF data or very large images: they do not stop the training
    warnings.filterwarnings("ignore", module=r"PIL\.")
    paths = [path for subset in subsets for path in (*subset.images, *subset.extra) if path not in refused]
    seen = StatCache(job.cache, f"images {PIL.__version__} {' '.join(formats())}")
    found = scan.broken(paths, decode, seen, "images", progress)
    small = {path for subset in subsets for path in _passed_over(subset, found)}
    found = {path: why for path, why in found.items() if path not in small}
    cure = "mend, replace or remove them"
    errors = {path: why for path, why in found.items() if path not in cached}
    yield from scan.problems(errors, "image does not decode", "images do not decode", cure)
    latents = ", and only their cached latents will be used"
    warned = {path: why for path, why in found.items() if path in cached and os.path.lexists(path)}
    one, many = f"image does not decode{latents}", f"images do not decode{latents}"
    yield from scan.problems(warned, one, many, cure, "warning")


def decode(path: str) -> str | None:
    """Return why upstream could not load an image, or None. Decodes all of it, as `library.utils.load_image` does."""
    from PIL import Image

    if os.path.exists(path) and not os.path.isfile(path):
        return "not a file"
    try:
        with Image.open(path, formats=formats()) as image:
            # at an eighth of the size a JPEG is still read to its end, with less time and memory
            image.draft("RGB", (1, 1))
            image.load()
            if image.mode not in _PLAIN:
                image.convert("RGB")
    except Image.UnidentifiedImageError:
        try:
            return contents.kind(contents.start(path)) or "no image that PIL knows"
        except OSError as exc:
            return str(exc.strerror)
    except Exception as exc:  # noqa: BLE001 - each decoder raises its own exceptions
        return str(getattr(exc, "strerror", None) or exc or type(exc).__name__)
    return None


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
        with Image.open(path, formats=formats()) as image:
            return (image.width, image.height)
    except (OSError, ValueError, SyntaxError):
        return None
