"""A survey of a training's data sets: images, buckets and captions as upstream uses them, and their faults."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lora_training.dataset import buckets, captions, pictures, tokens
from lora_training.dataset.buckets import Filled, Place
from lora_training.dataset.captions import Caption
from lora_training.dataset.pictures import Picture
from lora_training.preflight import buckets as preflight
from lora_training.preflight import listing
from lora_training.preflight.job import Job
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

    @property
    def size(self) -> str:
        """Width and height in words."""
        return f"{self.picture.width}x{self.picture.height}"


class Dataset(NamedTuple):
    """A data set's buckets, and its samples."""

    filled: Filled
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Fault:
    """A doubtful point: a short code, a sentence, and a detail for each image."""

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


def make(job: Job, tree: Path, progress: Callable[[str], None], trigger: str | None = None) -> Survey:
    """Survey the data sets of a training. Raises `listing.Unreadable`."""
    subsets = listing.subsets(job)
    found = pictures.survey((path for each in subsets for path in each.images), job.cache, progress)
    count = tokens.counter(job, tree)
    filled = buckets.fill(subsets, {path: (each.width, each.height) for path, each in found.items()})
    datasets = tuple(Dataset(each, tuple(_samples(each, found, count))) for each in filled)
    limit = tokens.limit(job) if count else None
    samples = [sample for dataset in datasets for sample in dataset.samples]
    unfit = preflight.unfit(job, subsets, progress)
    text = f"images {preflight.UNFIT}: {preflight.unfit_cure(subsets)}"
    sizes = (Fault("size", "error", text, unfit),) if unfit else ()
    faults = sorted((*_left_out(subsets, found), *sizes, *_faults(samples, limit, trigger)), key=lambda it: it.severity)
    accumulated = int(job.number("gradient_accumulation_steps") or 1)
    return Survey(datasets, tuple(faults), limit, math.ceil(sum(each.batches for each in filled) / accumulated))


def _samples(filled: Filled, found: Mapping[str, Picture], count: Callable[[str], int] | None) -> Iterator[Sample]:
    for subset in filled.subsets:
        for path, caption in captions.read(subset):
            if not _is_skipped(subset, found[path]):
                length = max(map(count, caption.text.split("\n"))) if count else None
                times, place = filled.times.get(path, 0), filled.places.get(path)
                yield Sample(path, subset, times, found[path], place, caption, length)


def _is_skipped(subset: Subset, picture: Picture) -> bool:
    return 0 < picture.width * picture.height <= subset.passed_over


# -- faults


def _left_out(subsets: Sequence[Subset], found: Mapping[str, Picture]) -> Iterator[Fault]:
    empty = {each.name: "" if Path(each.name).exists() else "not there" for each in subsets if not each.images}
    if empty or not subsets:
        severity: Severity = "warning" if any(subset.images for subset in subsets) else "error"
        yield Fault("no-images", severity, "data sets without images that upstream reads", empty)
    if unread := listing.unread(subsets):
        counts = Counter(detail if detail.startswith(".") else "folder" for detail in unread.values())
        kinds = ", ".join(f"{number} {kind}" for kind, number in counts.most_common())
        text = f"files that upstream does not read ({kinds}): save pictures as .png, give folders a data set"
        yield Fault("unread", "warning", text, unread)
    if alone := [file for subset in subsets if subset.images for file in captions.alone(subset)]:
        text = "caption files without an image of that name"
        yield Fault("caption-alone", "warning", text, dict.fromkeys(alone, ""))
    skipped = {path: "" for subset in subsets for path in subset.images if _is_skipped(subset, found[path])}
    if skipped:
        yield Fault("skipped", "warning", "images left out by skip_image_resolution", skipped)


def _faults(samples: Sequence[Sample], limit: int | None, trigger: str | None) -> Iterator[Fault]:
    images: dict[str, dict[str, str]] = {code: {} for code in _FAULTS}
    for sample in samples:
        for code, detail in (*_of_file(sample), *_of_size(sample), *_of_caption(sample, limit, trigger)):
            if detail is not None:
                images[code][sample.path] = detail
    for code, (severity, text) in _FAULTS.items():
        if images[code]:
            yield Fault(code, severity, text.format(limit=limit, trigger=trigger), images[code])
    found = {sample.path: sample.picture for sample in samples}
    same = pictures.same(list(found.values()))
    for group in same:
        yield Fault("duplicate", "warning", "images that are the same file", dict.fromkeys(group, ""))
    copies = {path for group in same for path in group[1:]}
    for group in pictures.similar([each for path, each in found.items() if path not in copies]):
        yield Fault("near-duplicate", "warning", "images that look the same", dict.fromkeys(group, ""))


def _of_file(sample: Sample) -> Iterator[tuple[str, str | None]]:
    """Yield the codes of the faults that an image file may have, each with a detail if it has it."""
    picture, options = sample.picture, sample.subset.options
    yield "broken", picture.wrong
    yield "misnamed", picture.content or None
    yield "exif-rotated", f"orientation {picture.orientation}" if picture.orientation > 1 else None
    yield "animated", f"{picture.frames} frames" if picture.frames > 1 else None
    yield "alpha", picture.mode if picture.has_alpha and not options.get("alpha_mask") else None
    yield "cmyk", picture.mode if picture.mode == "CMYK" else None
    yield "deep", picture.mode if picture.mode.startswith(("I", "F")) else None


def _of_size(sample: Sample) -> Iterator[tuple[str, str | None]]:
    """Yield the codes of the faults that an image's size may have, each with a detail if it has it."""
    if place := sample.place:
        short, long = sorted((sample.picture.width, sample.picture.height))
        scale, is_extreme = place.resized[0] / sample.picture.width, long > _MOST_RATIO * short
        yield "no-bucket", sample.size if 0 in place.bucket else None
        yield "tiny", sample.size if short < _LEAST_SIDE else None
        yield "enlarged", f"{sample.size}, {scale:.1f} times" if scale > _MOST_ENLARGED else None
        yield "extreme", sample.size if is_extreme else None
        yield "cropped", f"{place.lost:.0%}" if place.lost > _MOST_LOST and not is_extreme else None


def _of_caption(sample: Sample, limit: int | None, trigger: str | None) -> Iterator[tuple[str, str | None]]:
    """Yield the codes of the faults that a caption may have, each with a detail if it has it."""
    text, length = sample.caption.text.lower(), sample.tokens or 0
    if sample.caption.fault:
        yield f"caption-{sample.caption.fault}", sample.caption.detail
    yield "tokens", f"{length} tokens" if limit and length > limit else None
    if trigger and not sample.subset.options.get("is_reg"):
        yield "trigger", "" if trigger.lower() not in text else None


_FAULTS: dict[str, tuple[Severity, str]] = {
    "broken": ("error", "images that do not decode"),
    "no-bucket": ("error", "images too small for a bucket, which ends a training"),
    "tiny": ("warning", f"images with a side below {_LEAST_SIDE} pixels"),
    "enlarged": ("warning", "images smaller than their bucket, which are enlarged"),
    "extreme": ("warning", f"images with one side more than {_MOST_RATIO:.0f} times the other"),
    "cropped": ("warning", "images that lose much to cropping"),
    "misnamed": ("warning", "images in another format than their names say, which upstream reads all the same"),
    "exif-rotated": ("warning", "images turned by their EXIF data, which upstream ignores"),
    "animated": ("warning", "animated images, of which the first frame alone is used"),
    "alpha": ("warning", "images with transparency, which is dropped without alpha_mask"),
    "cmyk": ("warning", "images in CMYK, whose colours may change"),
    "deep": ("warning", "images of more than 8 bits in grey, which become white"),
    "caption-encoding": ("error", "captions that are not UTF-8, which ends a training"),
    "caption-empty": ("error", "empty caption files, which end a training"),
    "caption-unreadable": ("error", "caption files that cannot be read"),
    "caption-unread": ("warning", "caption files not read, since caption_extension is another"),
    "caption-missing": ("warning", "images without a caption"),
    "caption-blank": ("warning", "blank captions"),
    "caption-lines": ("warning", "captions of several lines, of which the first alone is used"),
    "caption-mark": ("warning", "captions with a byte order mark, which is trained on"),
    "tokens": ("warning", "captions of more than {limit} tokens, of which the rest is not used"),
    "trigger": ("warning", "captions without the trigger word {trigger}"),
}
