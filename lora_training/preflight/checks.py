"""All checks before a start, in the order in which they are cheap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_training.preflight import buckets, disk, images, latents, listing, weights
from lora_training.preflight.finding import Finding

if TYPE_CHECKING:
    from lora_training.preflight.finding import Job, Progress


def run(job: Job, progress: Progress, *, quick: bool = False) -> list[Finding]:
    """What stands in the way of a training, or may. Sets broken cache files aside; writes nothing else but its memory.

    `quick` leaves out what reads every image and every cache file. `progress` is given lines to show.
    """
    found = weights.findings(job)
    if job.on("dataset_class"):
        return [*found, *disk.findings(job, [], [])]
    try:
        subsets = listing.subsets(job)
    except listing.Unreadable as exc:
        return [*found, Finding(str(exc))]
    held, outputs = latents.used(job, subsets)
    cached = frozenset(held.values())
    if not quick:
        cached, wrong = latents.set_aside(job, held, outputs, progress)
        found += wrong
    found += images.findings(job, subsets, cached, progress, quick=quick)
    found += [] if quick else buckets.findings(job, subsets, progress)
    return [*found, *disk.findings(job, subsets, cached)]
