"""The summary of a training before its start, in a few lines: images, buckets, steps, files, device, warnings."""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lora_training import shell
from lora_training.app import start_checks
from lora_training.app.plan import Plan
from lora_training.dataset import buckets
from lora_training.launch import gpus
from lora_training.preflight import disk, images, listing, scan, sizes
from lora_training.preflight.job import Job
from lora_training.preflight.listing import Subset
from lora_training.stat_cache import StatCache
from lora_training.workspace import Workspace

_SHOWN, _WARNINGS = 4, 3  # buckets, warnings
_DEFAULT_STEPS = 1600  # upstream's max_train_steps


class _Data(NamedTuple):
    """The samples of an epoch in each bucket, the batches that they make, and the distinct batch sizes."""

    counts: Counter[buckets.Size]
    batches: int
    batch_sizes: tuple[int, ...]


def lines(here: Workspace, plan: Plan, progress: Callable[[str], None], *, write: bool) -> Iterator[str]:
    """Yield the lines. Without `write`, the sizes of the images are not cached. Unknown values are left out."""
    job = start_checks.job_of(here, plan.config, plan.schema, plan.spec.cwd)
    subsets = _subsets(job)
    data = _data(subsets, job.cache if write else None, progress) if subsets and start_checks.opens_images() else None
    if subsets:
        yield f"images    {_repeated(subsets)}"
    if data:
        yield f"buckets   {_in_words(data.counts)}"
    yield f"steps     {_steps(job, data, plan.started.count)}"
    yield f"saves     {_saves(job, subsets)} in {plan.output.parent}"
    yield f"device    {_device(plan)}, {_precision(plan, job)}"
    yield from (f"warning   {problem}" for problem in plan.warnings[:_WARNINGS])
    if len(plan.warnings) > _WARNINGS:
        more = len(plan.warnings) - _WARNINGS
        yield f"warnings  {more} more: `lora config check {shell.quote(str(plan.config.path))}` shows them"


def _subsets(job: Job) -> list[Subset]:
    try:
        return [] if job.on("dataset_class") else [each for each in listing.subsets(job) if each.images]
    except listing.Unreadable:
        return []


def _repeated(subsets: Sequence[Subset]) -> str:
    number = sum(len(each.images) for each in subsets)
    repeats = sorted({each.repeats for each in subsets})
    if len(repeats) == 1:
        return f"{number} x {repeats[0]} repeats"
    used = sum(len(each.images) * each.repeats for each in subsets)
    return f"{number} x {repeats[0]} to {repeats[-1]} repeats = {used}"


def _data(subsets: Sequence[Subset], cache: Path | None, progress: Callable[[str], None]) -> _Data:
    """Assign the images to their buckets, by the sizes in their headers."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    paths = (path for subset in subsets for path in subset.images)
    found = scan.texts(paths, _size, StatCache(cache, "width and height 1"), "sizes of images", progress)
    progress("")
    sizes = {path: (int(width), int(height)) for path, text in found.items() for width, height in [text.split()]}
    filled = buckets.fill(subsets, sizes)
    counts = sum((Counter(each.counts) for each in filled), Counter[buckets.Size]())
    return _Data(counts, sum(each.batches for each in filled), tuple(sorted({each.rule.batch_size for each in filled})))


def _size(path: str) -> str:
    return "{} {}".format(*(images.size(path) or (0, 0)))


def _in_words(counts: Counter[buckets.Size]) -> str:
    common = [f"{width}x{height} ({number})" for (width, height), number in counts.most_common(_SHOWN)]
    more = len(counts) - len(common)
    return ", ".join(common) + (f" and {more} more" if more else "")


def _steps(job: Job, data: _Data | None, processes: int) -> str:
    """Return steps and epochs by upstream's rule, and the number of images in a step."""
    accumulated = max(1, int(job.number("gradient_accumulation_steps") or 1))
    epoch = math.ceil(math.ceil(data.batches / processes) / accumulated) if data else 0
    steps, epochs = int(job.number("max_train_steps") or _DEFAULT_STEPS), int(job.number("max_train_epochs") or 0)
    if not epoch:
        return f"{epochs} epochs" if epochs else f"{steps}"
    steps = epochs * epoch or steps
    epochs = math.ceil(steps / epoch)
    batch = " or ".join(map(str, data.batch_sizes if data else ()))
    times = [(accumulated, "accumulated"), (processes, "processes")]
    batch += "".join(f" x {number} {what}" for number, what in times if number > 1)
    return f"{steps} = {epochs} epoch{'s' * (epochs != 1)} of {epoch}, batch {batch}"


def _saves(job: Job, subsets: Sequence[Subset]) -> str:
    loras, states = disk.saves(job, subsets)
    found = ((loras - 1, "checkpoint", sizes.lora(job)), (states, "state", sizes.state(job)))
    kinds = (
        f"{number} {what}{'s' * (number != 1)}" + (f" of about {disk.shown(size)}" if size else "")
        for number, what, size in found
        if number
    )
    return ", ".join(("the LoRA", *kinds))


def _device(plan: Plan) -> str:
    """Return the GPUs that train, by name where the driver tells it."""
    number = gpus.usable(os.environ, gpus.installed)
    if not number:
        return f"CPU, {plan.started.count} processes" if plan.started.count > 1 else "CPU"
    # the driver's order need not be CUDA's, so of different ones it is not known which will train
    name = " or ".join(sorted({gpu.name for gpu in gpus.described()})) or "GPU"
    return f"{plan.started.count} x {name}" if plan.started.count > 1 else name


def _precision(plan: Plan, job: Job) -> str:
    given = plan.config.launch.mixed_precision or job.value("mixed_precision") or "no"
    stored = job.value("save_precision")
    return f"mixed_precision {given}" + (f", saved as {stored}" if stored else "")
