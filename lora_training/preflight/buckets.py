"""Find images whose size ends a training.

With `bucket_no_upscale`, upstream divides by the area of an image's bucket, which may be zero. The rule is that of
`BucketManager.select_bucket` in upstream's `library/dataset.py`; a test compares the two. Without buckets and without
cached latents, upstream's `__getitem__` takes an image of another size than the resolution only to crop it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

from lora_training.preflight import images, scan
from lora_training.preflight.job import Job, Progress
from lora_training.preflight.listing import Subset
from lora_training.problems import Problem
from lora_training.stat_cache import StatCache

_STEPS, _LEAST, _MOST = 64, 256, 1024  # upstream's defaults
_WHAT = "sizes of images"
UNFIT = "not of the size of `resolution`"


def problems(job: Job, subsets: Sequence[Subset], progress: Progress) -> Iterator[Problem]:
    """Yield an error for each rule that lists the images on which upstream would fail."""
    found, what = _zero_area(job, subsets, progress), "too small for a bucket"
    cure = "enlarge or remove them, or set bucket_no_upscale = false"
    yield from scan.problems(found, f"image is {what}", f"images are {what}", cure)
    if found := unfit(job, subsets, progress):
        yield from scan.problems(found, f"image is {UNFIT}", f"images are {UNFIT}", unfit_cure(subsets))


def _zero_area(job: Job, subsets: Sequence[Subset], progress: Progress) -> dict[str, str]:
    found: dict[str, str] = {}
    for subset in subsets:
        size, steps = subset.size, subset.options.get("bucket_reso_steps") or _STEPS
        switches = ("enable_bucket", "bucket_no_upscale")
        if size and isinstance(steps, int) and all(map(subset.options.get, switches)):
            judge = StatCache(job.cache, f"buckets 1 {size} {steps} {subset.passed_over}")
            check = partial(_no_bucket, area=size[0] * size[1], steps=steps, passed_over=subset.passed_over)
            found |= scan.broken(subset.images, check, judge, _WHAT, progress)
    return found


def unfit(job: Job, subsets: Sequence[Subset], progress: Progress) -> dict[str, str]:
    """Return the images that upstream can neither use as they are nor crop; cached latents are resized before."""
    found: dict[str, str] = {}
    if job.on("cache_latents") or job.on("cache_latents_to_disk"):
        return found
    for subset in subsets:
        options = subset.options
        # a metadata file may name cached latents, and a face in a file's name has the image cropped around it
        if not subset.size or any(map(options.get, ("enable_bucket", "face_crop_aug_range"))) or subset.is_finetuning:
            continue
        crops = bool(options.get("random_crop"))
        judge = StatCache(job.cache, f"sizes 1 {subset.size} {crops} {subset.passed_over}")
        check = partial(_other_size, wanted=subset.size, crops=crops, passed_over=subset.passed_over)
        found |= scan.broken(subset.images, check, judge, _WHAT, progress)
    return found


def unfit_cure(subsets: Sequence[Subset]) -> str:
    """Return a hint for images of another size, with the limits of the buckets that their resolution needs."""
    limits: dict[str, int] = {}
    for subset in subsets:
        options, size = subset.options, subset.size or (_LEAST, _LEAST)
        steps = options.get("bucket_reso_steps") or _STEPS
        if min(size) < (options.get("min_bucket_reso") or _LEAST):
            limits["min_bucket_reso"] = min(limits.get("min_bucket_reso", _LEAST), min(size) // steps * steps)
        if max(size) > (options.get("max_bucket_reso") or _MOST):
            limits["max_bucket_reso"] = max(limits.get("max_bucket_reso", 0), -(-max(size) // steps) * steps)
    words = ["enable_bucket = true", *(f"{key} = {limit}" for key, limit in limits.items())]
    return f"set {' and '.join(words)}, or cache_latents = true"


def _other_size(path: str, *, wanted: tuple[int, int], crops: bool, passed_over: int) -> str | None:
    width, height = images.size(path) or wanted
    if (width, height) == wanted or width * height <= passed_over:
        return None
    if crops and width >= wanted[0] and height >= wanted[1]:
        return None
    return f"{width}x{height}, not {wanted[0]}x{wanted[1]}, and enable_bucket is off"


def _no_bucket(path: str, *, area: int, steps: int, passed_over: int) -> str | None:
    size = images.size(path)
    if size is None or size[0] * size[1] <= passed_over or all(bucket(*size, area, steps)):
        return None
    width, height = bucket(*size, area, steps)
    return f"{size[0]}x{size[1]}, which bucket_no_upscale rounds to {width}x{height} in steps of {steps}"


def bucket(width: int, height: int, area: int, steps: int) -> tuple[int, int]:
    """Return the bucket of an image under `bucket_no_upscale`; one side is 0 where upstream divides by zero."""
    width, height = shrunk(width, height, area, steps)
    return width - width % steps, height - height % steps


def shrunk(width: int, height: int, area: int, steps: int) -> tuple[int, int]:
    """Return the size to which `bucket_no_upscale` resizes an image before it is cropped to its bucket."""
    return _shrunk(width / height, area, steps) if width * height > area else (width, height)


def _shrunk(ratio: float, area: int, steps: int) -> tuple[int, int]:
    """Return a size of about this aspect ratio and area, one side a multiple of `steps`."""
    full = math.sqrt(area * ratio)
    wide, high = _rounded(full, steps), _rounded(area / full, steps)
    below, beside = _rounded(wide / ratio, steps), _rounded(high * ratio, steps)
    if not below or not high:
        return wide, 0
    if abs(wide / below - ratio) < abs(beside / high - ratio):
        return wide, int(wide / ratio + 0.5)
    return int(high * ratio + 0.5), high


def _rounded(number: float, steps: int) -> int:
    whole = int(number + 0.5)
    return whole - whole % steps
