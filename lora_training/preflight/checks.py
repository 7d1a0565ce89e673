"""Run all checks before a start, cheapest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lora_training.preflight import buckets, disk, formats, images, latents, listing, weights
from lora_training.preflight.finding import Finding

if TYPE_CHECKING:
    from lora_training.preflight.finding import Job, Progress


def run(job: Job, progress: Progress, depth: Literal["all", "quick", "none"] = "all") -> list[Finding]:
    """Return the errors and warnings about a training. Renames broken cache files; else writes only its own cache.

    `quick` skips the checks that read every image and every cache file. `none` keeps only the check of image formats,
    since PIL starts a program for some of them. `progress` is called with lines to show.
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
