"""Assign pictures to buckets by upstream's rules, with the part of each that is trained on.

The rules are those of `BucketManager` and `BaseDataset.make_buckets` in upstream's `library/dataset.py`, and of
`make_bucket_resolutions` in `library/model_util.py`; a test compares the counts with upstream's own log.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, groupby
from typing import Any

from lora_training.preflight import buckets
from lora_training.preflight.listing import Subset

Size = tuple[int, int]
_SD = (512, 512)  # where no resolution is given
# upstream's defaults
_DEFAULTS = {"min_bucket_reso": 256, "max_bucket_reso": 1024, "bucket_reso_steps": 64, "batch_size": 1}


@dataclass(frozen=True)
class Place:
    """The bucket of a picture and the size to which upstream resizes it before it crops it to the bucket."""

    bucket: Size
    resized: Size

    @property
    def lost(self) -> float:
        """The part of the picture that is cropped away."""
        return 1 - math.prod(self.bucket) / max(1, math.prod(self.resized))

    def crop(self) -> Iterator[tuple[float, float]]:
        """Yield the parts of width and height that are cropped away: left and right, top and bottom."""
        for resized, bucket in zip(self.resized, self.bucket, strict=True):
            start = max(0, resized - bucket) // 2
            yield start / resized, 1 - min(resized, start + bucket) / resized


class Rule:
    """The rule by which a data set's pictures are assigned to buckets."""

    def __init__(self, options: Mapping[str, Any], resolution: Size) -> None:
        given = {key: options.get(key) or default for key, default in _DEFAULTS.items()}
        self.resolution, self.batch_size = resolution, int(given["batch_size"])
        self.steps = int(given["bucket_reso_steps"])
        self.is_on = bool(options.get("enable_bucket"))
        self.only_shrinks = self.is_on and bool(options.get("bucket_no_upscale"))
        least, most = int(given["min_bucket_reso"]), int(given["max_bucket_reso"])
        limits = (least - least % self.steps, most + -most % self.steps)
        self.sizes = _sizes(resolution, *limits, self.steps) if self.is_on else [resolution]

    def place(self, width: int, height: int) -> Place:
        """Return the bucket of a picture. Of `bucket_no_upscale`, a side may be 0, on which upstream fails."""
        if self.only_shrinks:
            resized = buckets.shrunk(width, height, math.prod(self.resolution), self.steps)
            return Place((resized[0] - resized[0] % self.steps, resized[1] - resized[1] % self.steps), resized)
        ratio = width / height
        exact = [size for size in self.sizes if size == (width, height)]
        bucket = next(iter(exact), None) or min(self.sizes, key=lambda size: abs(size[0] / size[1] - ratio))
        scale = bucket[1] / height if ratio > bucket[0] / bucket[1] else bucket[0] / width
        return Place(bucket, (int(width * scale + 0.5), int(height * scale + 0.5)))


def _sizes(resolution: Size, least: int, most: int, steps: int) -> list[Size]:
    area = math.prod(resolution)
    square = int(math.sqrt(area) // steps) * steps
    found = {(square, square)}
    for width in range(least, most + 1, steps):
        height = min(most, int((area // width) // steps) * steps)
        if height >= least:
            found |= {(width, height), (height, width)}
    return sorted(found)


def repeats(subsets: Sequence[Subset], there: Mapping[str, Any]) -> dict[str, int]:
    """Return how often an epoch uses each picture of one data set.

    Upstream takes regularization images until there are as many as others, each more often if there are fewer.
    """
    found: dict[str, int] = {}
    regular: dict[str, int] = {}
    wanted = 0
    for subset in subsets:
        pairs = {path: subset.repeats for path in subset.images if path in there}
        if subset.options.get("is_reg") and not subset.is_finetuning:
            regular |= pairs
        else:
            found |= pairs
            wanted += sum(pairs.values())
    used = 0
    for path, times in cycle(regular.items()):
        if used >= wanted:
            break
        more = 1 if path in found else times
        found[path] = found.get(path, 0) + more
        used += more
    return found


@dataclass(frozen=True)
class Filled:
    """A data set in its buckets: the place of each image, and how often an epoch uses it.

    `counts` has the images in each bucket, with repeats; `batches` are those of an epoch.
    """

    subsets: Sequence[Subset]
    rule: Rule
    places: Mapping[str, Place]
    times: Mapping[str, int]
    counts: Mapping[Size, int]
    batches: int


def fill(subsets: Sequence[Subset], sizes: Mapping[str, Size]) -> list[Filled]:
    """Assign the images of each data set to its buckets, by their sizes; (0, 0) is that of an unreadable one."""
    return [_filled(list(group), sizes) for _, group in groupby(subsets, key=lambda subset: subset.dataset)]


def _filled(subsets: Sequence[Subset], sizes: Mapping[str, Size]) -> Filled:
    rule = Rule(subsets[0].options, next((subset.size for subset in subsets if subset.size), _SD))
    kept = (path for subset in subsets for path in subset.images if math.prod(sizes[path]) > subset.passed_over)
    places = {path: rule.place(*sizes[path]) for path in kept}
    times = repeats(subsets, places)
    counts: Counter[Size] = Counter()
    for path, number in times.items():
        counts[places[path].bucket] += number
    batches = sum(math.ceil(number / rule.batch_size) for number in counts.values())
    return Filled(subsets, rule, places, times, dict(sorted(counts.items())), batches)
