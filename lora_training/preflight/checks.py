"""All checks before a start, in the order in which they are cheap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lora_training.preflight import buckets, disk, formats, images, latents, listing, weights
from lora_training.preflight.finding import Finding

if TYPE_CHECKING:
    from lora_training.preflight.finding import Job, Progress


def run(job: Job, progress: Progress, depth: Literal["all", "quick", "none"] = "all") -> list[Finding]:
    """What stands in the way of a training, or may. Sets broken cache files aside; writes nothing else but its memory.

    `quick` leaves out what reads every image and every cache file; `none` leaves out all but what may run a program,
    the formats of images. `progress` is given lines to show.
    """
    quick = depth == "quick"
    found = weights.findings(job) if depth != "none" else []
    if job.on("dataset_class"):
        return [*found, *(disk.findings(job, [], []) if depth != "none" else [])]
    try:
        subsets = listing.subsets(job)
    except listing.Unreadable as exc:
        return [*found, Finding(str(exc))]
    refused = formats.refused(job, subsets, progress)
    found += formats.findings(refused)
    if depth == "none":
        return found
    held, outputs = latents.used(job, subsets)
    cached = frozenset(held.values())
    if not quick:
        cached, wrong = latents.set_aside(job, held, outputs, progress)
        found += wrong
    found += images.missing(subsets)
    if not quick:
        found += images.findings(job, subsets, cached, progress, refused)
        found += buckets.findings(job, subsets, progress)
    return [*found, *disk.findings(job, subsets, cached)]
