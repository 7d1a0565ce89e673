"""Run all checks before a start, cheapest first."""

from __future__ import annotations

from typing import Literal

from lora_training.preflight import buckets, disk, images, latents, listing, weights
from lora_training.preflight.job import Job, Progress
from lora_training.problems import Problem


def run(job: Job, progress: Progress, depth: Literal["all", "quick", "none"] = "all") -> list[Problem]:
    """Return the errors and warnings about a training. Renames broken cache files; else writes only its own cache.

    `quick` skips the checks that read every image and every cache file. `none` keeps only the check of image formats,
    since PIL starts a program for some of them. `progress` is called with lines to show.
    """
    quick = depth == "quick"
    found = list(weights.problems(job)) if depth != "none" else []
    if job.on("dataset_class"):
        return [*found, *(disk.problems(job, [], []) if depth != "none" else [])]
    try:
        subsets = listing.subsets(job)
    except listing.Unreadable as exc:
        return [*found, Problem(str(exc))]
    refused = images.refused(job, subsets, progress)
    found += images.refusals(refused)
    if depth == "none":
        return found
    read, outputs = latents.used(job, subsets)
    cached = frozenset(read.values())
    if not quick:
        cached, wrong = latents.rename_broken(job, read, outputs, progress)
        found += wrong
    found += images.missing(subsets)
    if not quick:
        found += images.problems(job, subsets, cached, progress, refused)
        found += buckets.problems(job, subsets, progress)
    return [*found, *disk.problems(job, subsets, cached)]
