"""What a training will use of its data sets, and what is doubtful about it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_training.dataset import buckets, captions, pictures, tokens
from lora_training.preflight import listing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from lora_training.dataset.buckets import Place, Size
    from lora_training.dataset.captions import Caption
    from lora_training.dataset.pictures import Picture
    from lora_training.preflight.job import Job, Progress
    from lora_training.preflight.listing import Subset
    from lora_training.problems import Severity

_LEAST_SIDE = 64
_MOST_RATIO = 3.0  # of the longer side to the shorter
_MOST_LOST, _MOST_ENLARGED = 0.25, 1.2


@dataclass(frozen=True)
class Sample:
    """An image of a data set. `place` is None for one that does not decode."""

    path: str
    subset: Subset
    repeats: int
    picture: Picture
    place: Place | None
    caption: Caption
    tokens: int | None = None


@dataclass(frozen=True)
class Dataset:
    """The samples that share buckets. `buckets` has the images in each, with repeats."""

    resolution: Size
    batch_size: int
    samples: tuple[Sample, ...]
    buckets: Mapping[Size, int]

    @property
    def batches(self) -> int:
        """The number of batches in an epoch."""
        return sum(math.ceil(count / self.batch_size) for count in self.buckets.values())


@dataclass(frozen=True)
class Fault:
    """Something doubtful about images: a short code, a sentence's predicate, and the images with a detail each."""

    code: str
    severity: Severity
    text: str
    images: Mapping[str, str]


@dataclass(frozen=True)
class Survey:
    """The data sets of a training, their faults, and the most tokens of a caption that are used, where known."""

    datasets: tuple[Dataset, ...]
    faults: tuple[Fault, ...]
    token_limit: int | None
    steps: int

    @property
    def samples(self) -> list[Sample]:
        """All samples."""
        return [sample for dataset in self.datasets for sample in dataset.samples]


def make(job: Job, tree: Path, progress: Progress, trigger: str | None = None) -> Survey:
    """Survey the data sets of a training. Raises `listing.Unreadable`."""
    subsets = listing.subsets(job)
    found = pictures.survey((path for each in subsets for path in each.images), job.cache, progress)
    count = tokens.counter(job, tree)
    numbers = sorted({subset.dataset for subset in subsets})
    datasets = [_dataset([each for each in subsets if each.dataset == number], found, count) for number in numbers]
    limit = tokens.limit(job) if count else None
    samples = [sample for dataset in datasets for sample in dataset.samples]
    faults = [*_faults(samples, limit, trigger), *_skipped(subsets, found)]
    batches = sum(dataset.batches for dataset in datasets)
    accumulated = int(job.number("gradient_accumulation_steps") or 1)
    return Survey(tuple(datasets), tuple(faults), limit, math.ceil(batches / accumulated))


def _dataset(subsets: Sequence[Subset], found: Mapping[str, Picture], count: Callable[[str], int] | None) -> Dataset:
    resolution = next((subset.size for subset in subsets if subset.size), None) or (512, 512)
    rule = buckets.Rule(subsets[0].options, resolution)
    used = {path: each for path, each in found.items() if each.wrong is None}
    used = {path: each for path, each in used.items() if each.width and each.height}
    kept = {path for subset in subsets for path in subset.images if not _is_skipped(subset, found[path])}
    times = buckets.repeats(subsets, {path: used[path] for path in used if path in kept})
    samples = []
    for subset in subsets:
        for path, caption in captions.read(subset):
            if path in kept:
                each = found[path]
                place = rule.place(each.width, each.height) if path in used else None
                length = _tokens(caption.text, count) if count else None
                samples.append(Sample(path, subset, times.get(path, 0), each, place, caption, length))
    counted: Counter[Size] = Counter()
    for path, repeats in times.items():
        counted[rule.place(used[path].width, used[path].height).bucket] += repeats
    return Dataset(resolution, rule.batch_size, tuple(samples), dict(sorted(counted.items())))


def _is_skipped(subset: Subset, picture: Picture) -> bool:
    return picture.wrong is None and 0 < picture.width * picture.height <= subset.passed_over


def _tokens(text: str, count: Callable[[str], int]) -> int:
    return max(map(count, text.split("\n")))


# -- faults


def _faults(samples: Sequence[Sample], limit: int | None, trigger: str | None) -> Iterator[Fault]:
    if not samples:
        yield Fault("no-images", "error", "images: none are there", {})
    for code, severity, text, judge in (*_PICTURES, *_CAPTIONS):
        images = {sample.path: said for sample in samples if (said := judge(sample)) is not None}
        if images:
            yield Fault(code, severity, text, images)
    long = {each.path: f"{each.tokens} tokens" for each in samples if limit and (each.tokens or 0) > limit}
    if long:
        yield Fault("tokens", "warning", f"captions of more than {limit} tokens, of which the rest is not used", long)
    without = [each.path for each in samples if not each.subset.options.get("is_reg") and _lacks(each, trigger)]
    if without:
        yield Fault("trigger", "warning", f"captions without the trigger word {trigger}", dict.fromkeys(without, ""))
    yield from _duplicates([sample.picture for sample in samples])


def _lacks(sample: Sample, trigger: str | None) -> bool:
    return trigger is not None and trigger.lower() not in sample.caption.text.lower()


def _duplicates(found: Sequence[Picture]) -> Iterator[Fault]:
    unique = list({each.path: each for each in found}.values())
    groups = pictures.same(unique)
    for group in groups:
        text = "images that are the same file"
        yield Fault("duplicate", "warning", text, dict.fromkeys(group, ""))
    first = {path: group[0] for group in groups for path in group}
    rest = [each for each in unique if first.get(each.path, each.path) == each.path]
    for one, other in pictures.similar(rest):
        yield Fault("near-duplicate", "warning", "images that look the same", {one: "", other: ""})


def _skipped(subsets: Iterable[Subset], found: Mapping[str, Picture]) -> Iterator[Fault]:
    images = {path: "" for subset in subsets for path in subset.images if _is_skipped(subset, found[path])}
    if images:
        yield Fault("skipped", "warning", "images left out by skip_image_resolution", images)


def _size(sample: Sample) -> str:
    return f"{sample.picture.width}x{sample.picture.height}"


def _small(sample: Sample) -> str | None:
    return _size(sample) if sample.place and min(sample.picture.width, sample.picture.height) < _LEAST_SIDE else None


def _no_bucket(sample: Sample) -> str | None:
    return _size(sample) if sample.place and 0 in sample.place.bucket else None


def _extreme(sample: Sample) -> str | None:
    sides = sorted((sample.picture.width, sample.picture.height))
    return _size(sample) if sample.place and sides[1] > _MOST_RATIO * sides[0] else None


def _cropped(sample: Sample) -> str | None:
    lost = sample.place.lost if sample.place else 0
    return f"{100 * lost:.0f} %" if lost > _MOST_LOST and _extreme(sample) is None else None


def _enlarged(sample: Sample) -> str | None:
    scale = sample.place.resized[0] / sample.picture.width if sample.place else 0
    return f"{_size(sample)}, {scale:.1f} times" if scale > _MOST_ENLARGED else None


def _alpha(sample: Sample) -> str | None:
    return sample.picture.mode if sample.picture.has_alpha and not sample.subset.options.get("alpha_mask") else None


def _turned(sample: Sample) -> str | None:
    return f"orientation {sample.picture.orientation}" if sample.picture.orientation not in (0, 1) else None


def _animated(sample: Sample) -> str | None:
    return f"{sample.picture.frames} frames" if sample.picture.frames > 1 else None


def _mode(sample: Sample) -> str | None:
    return sample.picture.mode if sample.picture.mode in ("CMYK", "YCCK") else None


_PICTURES: tuple[tuple[str, Severity, str, Callable[[Sample], str | None]], ...] = (
    ("broken", "error", "images that do not decode", lambda sample: sample.picture.wrong),
    ("no-bucket", "error", "images too small for a bucket, which ends a training", _no_bucket),
    ("tiny", "warning", f"images with a side below {_LEAST_SIDE} pixels", _small),
    ("enlarged", "warning", "images smaller than their bucket, which are enlarged", _enlarged),
    ("extreme", "warning", f"images with one side more than {_MOST_RATIO:.0f} times the other", _extreme),
    ("cropped", "warning", "images that lose much to cropping", _cropped),
    ("exif-rotated", "warning", "images turned by their EXIF data, which upstream ignores", _turned),
    ("animated", "warning", "animated images, of which the first frame alone is used", _animated),
    ("alpha", "warning", "images with transparency, which is dropped without alpha_mask", _alpha),
    ("cmyk", "warning", "images in CMYK, whose colours may change", _mode),
)


def _has(fault: captions.Fault) -> Callable[[Sample], str | None]:
    return lambda sample: sample.caption.detail if sample.caption.fault == fault else None


_CAPTIONS: tuple[tuple[str, Severity, str, Callable[[Sample], str | None]], ...] = (
    ("caption-encoding", "error", "captions that are not UTF-8, which ends a training", _has("not UTF-8")),
    ("caption-empty", "error", "empty caption files, which end a training", _has("empty")),
    ("caption-unreadable", "error", "caption files that cannot be read", _has("unreadable")),
    (
        "caption-unread",
        "warning",
        "caption files not read, since caption_extension is another",
        _has("unread"),
    ),
    ("caption-missing", "warning", "images without a caption", _has("missing")),
    ("caption-blank", "warning", "blank captions", _has("blank")),
    ("caption-lines", "warning", "captions of several lines, of which the first alone is used", _has("more lines")),
    (
        "caption-mark",
        "warning",
        "captions with a byte order mark, which is trained on",
        _has("byte order mark"),
    ),
)
