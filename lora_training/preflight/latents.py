"""Check cached latents and text encoder outputs; broken files are renamed, so that upstream makes them again."""

from __future__ import annotations

import math
import os
import re
import zipfile
from typing import IO, TYPE_CHECKING

from lora_training import families, files
from lora_training.preflight import checking, listing
from lora_training.preflight.finding import Finding
from lora_training.remembered import Remembered

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lora_training.preflight.finding import Job, Progress
    from lora_training.preflight.listing import Subset

SUFFIX = ".broken"
# upstream does not compress; limits against decompression bombs: bytes of a small file, growth of others
_MOST, _GROWTH = 64 * 2**20, 4
_SHOWN = 3
_SIZE = re.compile(r"_\d+x\d+")


def used(job: Job, subsets: Sequence[Subset]) -> tuple[dict[str, str], list[str]]:
    """Return the cache files that upstream will read: latents with their images, and text encoder outputs."""
    latents: dict[str, str] = {}
    outputs: list[str] = []
    for subset in subsets:
        stems = {os.path.splitext(image)[0]: image for image in subset.images}
        # upstream uses cached latents for images of a metadata file even without cache_latents_to_disk
        if job.on("cache_latents_to_disk") or subset.is_finetuning:
            latents |= _latents(job.script, stems)
        suffix = families.of(job.script).text_outputs
        if job.on("cache_text_encoder_outputs_to_disk") and suffix:
            outputs += [path for stem in stems if os.path.exists(path := stem + suffix)]
    return latents, outputs


def _latents(script: str, stems: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    family = families.of(script)
    suffix = family.latents or ""
    for folder in dict.fromkeys(map(os.path.dirname, stems)) if suffix else ():
        for path in (os.path.join(folder, name) for name in listing.names(folder) if name.endswith(".npz")):
            stem, _, size = path.removesuffix(suffix).rpartition("_")
            if path.endswith(suffix) and _SIZE.fullmatch(f"_{size}") and stem in stems:
                yield path, stems[stem]
            elif family.reads_latents_without_size and path.removesuffix(".npz") in stems:
                yield path, stems[path.removesuffix(".npz")]


def set_aside(
    job: Job, latents: Mapping[str, str], outputs: Sequence[str], progress: Progress
) -> tuple[frozenset[str], list[Finding]]:
    """Rename broken cache files to NAME.broken, or only report them; return images with good latents, and findings."""
    found: dict[str, str] = {}
    if latents or outputs:
        seen = Remembered(job.cache, "caches 2")
        found = checking.broken([*latents, *outputs], damage, seen, "cached latents and outputs", progress)
    good = frozenset(image for path, image in latents.items() if path not in found)
    if job.only_looks:
        return good, [_aside(found, "is", "are", "broken, and set aside by `lora train`")] if found else []
    return good, list(_moved(found)) if found else []


def _aside(found: Mapping[str, str], one: str, many: str, how: str) -> Finding:
    files = [f"{path} ({wrong})" for path, wrong in found.items()]
    what = f"cache file {one}" if len(files) == 1 else f"cache files {many}"
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    message = f"{len(files)} {what} {how} as NAME{SUFFIX}: {', '.join(files[:_SHOWN])}{more}"
    return Finding(message, "upstream makes what is missing again", "warning")


def _moved(found: Mapping[str, str]) -> Iterator[Finding]:
    failed = {path: _move(path) for path in found}
    hint = "remove it, or make its folder one that can be written to"
    for path, why in failed.items():
        if why:
            yield Finding(f"the cache file {path} is broken ({found[path]}), and cannot be set aside: {why}", hint)
    done = {path: wrong for path, wrong in found.items() if not failed[path]}
    if done:
        yield _aside(done, "was broken and is", "were broken and are", "set aside")


def _move(path: str) -> str | None:
    """Rename a file; return why it cannot be renamed, or None. A missing file is fine: another machine renamed it."""
    try:
        os.replace(path, path + SUFFIX)
    except FileNotFoundError:
        return None
    except OSError as exc:
        return exc.strerror
    return None


def damage(path: str) -> str | None:
    """Return why a cache file cannot be used, or None. Reads every part, checks checksums, and requires finite latents.

    The sizes are checked before anything is decompressed.
    """
    import numpy as np

    try:
        with open(path, "rb", opener=files.opener_of_any) as file:
            wrong = _inflates(file)
            if wrong:
                return wrong
            held = np.load(file, allow_pickle=False)
            if isinstance(held, np.ndarray):
                return "no zip archive"
            for name in held.files:
                part = held[name]
                if name.startswith("latents") and part.dtype.kind == "f" and not np.isfinite(part).all():
                    return f"{name} holds values that are not finite"
    except OSError as exc:
        return exc.strerror or str(exc)
    except Exception as exc:  # noqa: BLE001 - numpy, zipfile and zlib raise different exceptions for a damaged file
        return str(exc).splitlines()[0] if str(exc) else type(exc).__name__
    return None


def _inflates(file: IO[bytes]) -> str | None:
    """Return why an archive of arrays must not be decompressed, by its directory and array headers, or None."""
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        if any(part.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for part in parts):
            return "packed as numpy packs nothing"
        size, whole = os.fstat(file.fileno()).st_size, sum(part.file_size for part in parts)
        if whole > max(_MOST, _GROWTH * size):
            return f"{size} bytes that would inflate to {whole}"
        for part in parts:
            with archive.open(part) as data:
                if _held(data) > part.file_size:
                    return f"{part.filename} is shorter than its header says"
    file.seek(0)
    return None


def _held(data: IO[bytes]) -> int:
    """Return the size of an array in bytes, by its header."""
    import numpy as np

    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = readers[np.lib.format.read_magic(data)](data)
    return int(math.prod(shape) * dtype.itemsize)
