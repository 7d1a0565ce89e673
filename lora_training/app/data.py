"""Check the data of a training: the images and captions that upstream will use, and doubtful ones."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lora_training import families, files, nearest, proc
from lora_training.app import start_checks
from lora_training.app.checkout import Checkout
from lora_training.dataset import captions, report, survey
from lora_training.dataset.survey import Dataset, Fault, Survey
from lora_training.errors import ConfigError, UpstreamError
from lora_training.preflight import listing
from lora_training.preflight.job import Job

_SHOWN = 5
_DEFAULT_MOST = 1024  # upstream's max_bucket_reso


def check(
    place: Path,
    sets: tuple[str, ...],
    trigger: str | None,
    progress: Callable[[str], None],
    script: str = "sdxl_train_network",
    resolution: int = 1024,
    caption_extension: str | None = None,
) -> Survey:
    """Survey the data that a configuration names, or a folder, as a script would train on it. Raises ConfigError."""
    if not start_checks.opens_images():
        raise UpstreamError("this environment has no training packages, so no image can be opened", hint="`make setup`")
    here = Checkout(None)
    if place.is_dir():
        job = _of_folder(here, place, script, resolution, caption_extension)
    else:
        config = here.load(place, sets)
        job = start_checks.job_of(here.workspace, config, here.schema(config.script), here.tree)
    try:
        return survey.make(job, here.tree, progress, trigger)
    except listing.Unreadable as exc:
        raise ConfigError(str(exc)) from exc
    finally:
        progress("")


def _of_folder(here: Checkout, place: Path, script: str, resolution: int, extension: str | None) -> Job:
    """Return a training on the images of a folder, or of its folders that are named <repeats>_<words>."""
    if not families.is_known(script):
        near = nearest.hint(script, (family.script for family in families.FAMILIES))
        raise ConfigError(f"upstream has no script `{script}`", hint=near)
    root, endings = files.absolute(place), listing.extensions()
    folders = (root, *files.repeated(root))
    some = next((each for each in folders if any(name.endswith(endings) for name in files.names(each))), root)
    flags = {
        "resolution": str(resolution),
        "enable_bucket": True,
        "caption_extension": extension or captions.extension_of(str(some)),
        "max_bucket_reso": max(_DEFAULT_MOST, resolution),
        "train_data_dir": str(root),
    }
    document = {"datasets": [{"subsets": [{"image_dir": str(root)}]}]} if some == root else None
    cache = here.workspace.cache / "checked"
    return Job(script, flags, document, root / "unused", here.tree, {**os.environ}, cache)


# -- results


def as_json(found: Survey) -> dict[str, Any]:
    """Return a survey as JSON values."""
    return {
        "datasets": [
            {
                "resolution": list(filled.rule.resolution),
                "batch_size": filled.rule.batch_size,
                "batches": filled.batches,
                "buckets": [{"size": list(size), "count": count} for size, count in filled.counts.items()],
            }
            for filled in (dataset.filled for dataset in found.datasets)
        ],
        "images": len(found.samples),
        "steps_per_epoch": found.steps,
        "token_limit": found.token_limit,
        "tags": dict(captions.frequency(sample.caption.text for sample in found.samples).most_common()),
        "findings": [asdict(each) for each in found.faults],
    }


def lines(found: Survey) -> Iterator[str]:
    """Return a survey as lines of text."""
    for dataset in found.datasets:
        yield from _table(dataset)
    yield from _words(found)
    for _, faults in itertools.groupby(found.faults, key=lambda fault: fault.code):
        yield from _faults(list(faults))


def _table(dataset: Dataset) -> Iterator[str]:
    rule, counts = dataset.filled.rule, dataset.filled.counts
    width, height = rule.resolution
    used = sum(counts.values())
    yield f"{width}x{height}, batches of {rule.batch_size}: {report.counted(dataset.samples, used)}"
    yield f"  {'bucket':>12} {'images':>8} {'with repeats':>14}"
    for size, count in counts.items():
        images = sum(each.place is not None and each.place.bucket == size for each in dataset.samples)
        yield f"  {f'{size[0]}x{size[1]}':>12} {images:>8} {count:>14}"


def _words(found: Survey) -> Iterator[str]:
    yield f"{found.steps} steps an epoch, with one process"
    texts = [sample.caption.text for sample in found.samples if sample.caption.text]
    counts = captions.frequency(texts)
    lengths = [sample.tokens for sample in found.samples if sample.tokens]
    most = f", up to {max(lengths)} tokens of {found.token_limit}" if lengths else ""
    common = ", ".join(f"{tag} {count}" for tag, count in counts.most_common(_SHOWN))
    yield f"{len(texts)} captions{most}" + (f"; {len(counts)} tags: {common}" if common else "")


def _faults(faults: Sequence[Fault]) -> Iterator[str]:
    """Yield the findings of one kind, the first of them in full."""
    for fault in faults[:_SHOWN]:
        yield f"{fault.severity}: {fault.text}" + (f": {len(fault.images)}" if fault.images else "")
        for path, detail in list(fault.images.items())[:_SHOWN]:
            yield f"    {path}" + (f" ({detail})" if detail else "")
        if len(fault.images) > _SHOWN:
            yield f"    and {len(fault.images) - _SHOWN} more, which --json lists"
    if len(faults) > _SHOWN:
        yield f"and {len(faults) - _SHOWN} more of this kind, which --json lists"


def write_report(found: Survey, title: str, file: Path) -> None:
    """Write the report atomically."""
    files.write(file, "".join(report.html(found, title)))


def report_of(file: Path) -> bytes:
    """Return the report of a configuration, made by a process of its own. Raises LoraError."""
    with tempfile.TemporaryDirectory(prefix="lora-report-") as folder:
        target = Path(folder, "report.html")
        argv = [*proc.module("lora_training"), "data", "check", str(file), "--report", str(target)]
        done = proc.run(argv, cwd=file.parent, allowed=(0, 1))
        try:
            return target.read_bytes()
        except FileNotFoundError:
            raise proc.ProcError(done) from None
