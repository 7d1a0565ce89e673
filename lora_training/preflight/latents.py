"""Check cached latents and text encoder outputs; broken files are renamed, so that upstream makes them again."""

from __future__ import annotations

import math
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

from lora_training import families, files
from lora_training.preflight import scan
from lora_training.preflight.job import Job, Progress
from lora_training.preflight.listing import Subset
from lora_training.problems import Problem
from lora_training.stat_cache import StatCache

SUFFIX = ".broken"
# upstream does not compress; limits against decompression bombs: bytes of a small file, growth of others
_MOST, _GROWTH = 64 * 2**20, 4
_SIZE = re.compile(r"_\d+x\d+")


def used(job: Job, subsets: Sequence[Subset]) -> tuple[dict[str, str], list[str]]:
    """Return the cache files that upstream will read: latents with their images, and text encoder outputs."""
    latents: dict[str, str] = {}
    outputs: list[str] = []
    suffix = families.of(job.script).text_outputs
    for subset in subsets:
        stems = {os.path.splitext(image)[0]: image for image in subset.images}
        # upstream uses cached latents for images of a metadata file even without cache_latents_to_disk
        if job.on("cache_latents_to_disk") or subset.is_finetuning:
            latents |= _latents(job.script, stems)
        if job.on("cache_text_encoder_outputs_to_disk") and suffix:
            outputs += [path for stem in stems if os.path.exists(path := stem + suffix)]
    return latents, outputs


def _latents(script: str, stems: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    family = families.of(script)
    suffix = family.latents or ""
    for folder in dict.fromkeys(map(os.path.dirname, stems)) if suffix else ():
        for path in (os.path.join(folder, name) for name in files.names(folder) if name.endswith(".npz")):
            stem, _, size = path.removesuffix(suffix).rpartition("_")
            if path.endswith(suffix) and _SIZE.fullmatch(f"_{size}") and stem in stems:
                yield path, stems[stem]
            elif family.reads_latents_without_size and path.removesuffix(".npz") in stems:
                yield path, stems[path.removesuffix(".npz")]


def rename_broken(
    job: Job, latents: Mapping[str, str], outputs: Sequence[str], progress: Progress
) -> tuple[frozenset[str], list[Problem]]:
    """Rename broken cache files to NAME.broken, or only report them; return images with good latents, and problems."""
    found: dict[str, str] = {}
    if latents or outputs:
        seen = StatCache(job.cache, "caches 2")
        found = scan.broken([*latents, *outputs], damage, seen, "cached latents and outputs", progress)
    good = frozenset(image for path, image in latents.items() if path not in found)
    if job.only_looks:
        return good, list(
            _warning(found, "is broken, and set aside by `lora train`", "are broken, and set aside by `lora train`")
        )
    failed = {path: why for path in found if (why := _rename(path))}
    hint = "remove it, or make its folder one that can be written to"
    problems = [
        Problem(f"the cache file {path} is broken ({found[path]}), and cannot be set aside: {why}", hint)
        for path, why in failed.items()
    ]
    renamed = {path: wrong for path, wrong in found.items() if path not in failed}
    return good, [*problems, *_warning(renamed, "was broken and is set aside", "were broken and are set aside")]


def _warning(found: Mapping[str, str], one: str, many: str) -> Iterator[Problem]:
    one, many = f"cache file {one} as NAME{SUFFIX}", f"cache files {many} as NAME{SUFFIX}"
    return scan.problems(found, one, many, "upstream makes what is missing again", "warning")


def _rename(path: str) -> str | None:
    """Rename a file; return why it cannot be renamed, or None. A missing file is fine: another machine renamed it."""
    try:
        os.replace(path, path + SUFFIX)
    except FileNotFoundError:
        return None
    except OSError as exc:
        return exc.strerror or str(exc)
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
    import numpy as np

    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        if any(part.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for part in parts):
            return "compressed by a method that numpy does not use"
        size, whole = os.fstat(file.fileno()).st_size, sum(part.file_size for part in parts)
        if whole > max(_MOST, _GROWTH * size):
            return f"{size} bytes that would inflate to {whole}"
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        for part in parts:
            with archive.open(part) as data:
                shape, _, dtype = readers[np.lib.format.read_magic(data)](data)
                if math.prod(shape) * dtype.itemsize > part.file_size:
                    return f"{part.filename} is shorter than its header says"
    file.seek(0)
    return None
