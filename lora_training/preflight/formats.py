"""Check that the content of each image is in a format that upstream supports, whatever its file name.

PIL goes by the content, not by the name: for an EPS named `a.png`, it would start Ghostscript.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from lora_training import files
from lora_training.preflight import checking, foreign, listing
from lora_training.preflight.finding import Finding
from lora_training.remembered import Remembered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lora_training.preflight.finding import Job, Progress
    from lora_training.preflight.listing import Subset

_SHOWN = 10
_START = 16  # bytes by which PIL tells formats apart


def refused(job: Job, subsets: Sequence[Subset], progress: Progress) -> dict[str, str]:
    """Return the images in other formats, pipes and devices, with reasons; also images whose latents are cached."""
    if find_spec("PIL") is None:
        return {}
    judge = Remembered(job.cache, f"formats 1 {' '.join(known())}")
    paths = [path for subset in subsets for path in (*subset.images, *subset.extra)]
    return checking.broken(paths, wrong, judge, "formats of images", progress)


def findings(found: Mapping[str, str]) -> list[Finding]:
    """Return one error for all refused images."""
    if not found:
        return []
    lines = [f"{path} ({why})" for path, why in found.items()]
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    what = "image is" if len(lines) == 1 else "images are"
    hint = "\n".join([*lines[1:_SHOWN], *more, "save them anew in one of these formats, or remove them"])
    return [Finding(f"{len(lines)} {what} not {', '.join(known())}: {lines[0]}", hint)]


def wrong(path: str) -> str | None:
    """Return why PIL must not open a file, or None. Missing files and files that are no image are checked elsewhere."""
    from PIL import Image

    try:
        with open(path, "rb", opener=files.opener_of_any) as file:
            start = file.read(foreign.ENOUGH)
    except FileNotFoundError:
        return None
    except OSError as exc:
        return exc.strerror
    accepts = [Image.OPEN[name][1] for name in known()]
    if foreign.kind(start) or any(accept is None or accept(start[:_START]) for accept in accepts):
        return None
    return foreign.image(start) or "it begins like none of them"


@cache
def known() -> tuple[str, ...]:
    """Return PIL's names for the formats of the file suffixes that upstream lists."""
    from PIL import Image

    endings = listing.extensions()  # also imports the plugins for formats that PIL lacks
    Image.init()
    names = Image.registered_extensions()
    return tuple(dict.fromkeys(names[ending] for ending in endings if ending in names))
