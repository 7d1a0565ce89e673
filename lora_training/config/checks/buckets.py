"""Check resolutions, buckets, and other conditions that upstream asserts for each dataset."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from lora_training.config.checks.view import as_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lora_training.config.checks.view import Subset, View
    from lora_training.config.positions import Path as KeyPath
    from lora_training.problems import Problem

_NUMBERS = re.compile(r"\d{1,9}(?:,\d{1,9})*")


def problems(view: View) -> Iterator[Problem]:
    """Yield the datasets that upstream would refuse, which it does only after loading everything."""
    for number, dataset in enumerate(view.config.datasets):
        yield from _dataset(view, dataset, ("datasets", number))
    for subset in view.subsets:
        yield from _subset(view, subset)
    if not view.config.datasets and (view.given("train_data_dir") or view.given("in_json")):
        yield from _dataset(view, {}, ())


def _dataset(view: View, dataset: dict[str, Any], path: KeyPath) -> Iterator[Problem]:
    given = view.inherited("resolution", dataset)
    size = resolution(given)
    if size is None and not _is_of_wrong_type(given):
        hint = "for example resolution = [1024, 1024]"
        yield view.config.problem("this dataset has no usable `resolution`", _place(view, dataset, path), hint=hint)
    batch = as_number(view.inherited("batch_size", dataset))
    if batch is not None and batch < 1:
        yield view.config.problem("`batch_size` must be 1 or more", _place(view, dataset, path, "batch_size"))
    if view.inherited("enable_bucket", dataset) is True:
        yield from _buckets(view, dataset, path, size)


def _is_of_wrong_type(given: Any) -> bool:
    """Whether the schema has already refused the value: it accepts a string, an integer or a pair of integers."""
    parts = given if isinstance(given, list) else [given]
    is_number = len(parts) in (1, 2) and all(isinstance(part, int) and not isinstance(part, bool) for part in parts)
    return not (given is None or isinstance(given, str) or is_number)


def _place(view: View, dataset: dict[str, Any], path: KeyPath, key: str = "resolution") -> KeyPath:
    if key in dataset:
        return (*path, key)
    return ("general", key) if key in view.config.general else (view.path(key) or path)


def resolution(value: Any) -> tuple[int, int] | None:
    """Return width and height from a number, a pair, or upstream's `"width,height"`; None for anything else."""
    if isinstance(value, str):
        parts: list[Any] = list(map(int, value.split(","))) if _NUMBERS.fullmatch(value) else []
    else:
        parts = value if isinstance(value, list) else [value]
    parts = parts * 2 if len(parts) == 1 else parts
    whole = len(parts) == 2 and all(isinstance(p, int) and not isinstance(p, bool) and p > 0 for p in parts)  # noqa: PLR2004 - a pair
    return (parts[0], parts[1]) if whole else None


def _buckets(view: View, dataset: dict[str, Any], path: KeyPath, size: tuple[int, int] | None) -> Iterator[Problem]:
    numbers = [view.inherited(k, dataset) for k in ("bucket_reso_steps", "min_bucket_reso", "max_bucket_reso")]
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers):
        return
    steps, least, most = numbers
    needed = view.schema.bucket_steps
    if steps % needed:
        message = f"`bucket_reso_steps` must be a multiple of {needed} for {view.schema.script}, not {steps}"
        yield view.config.problem(message, _place(view, dataset, path, "bucket_reso_steps"), hint=f"use {needed}")
    if size is None:
        return
    if view.inherited("bucket_no_upscale", dataset) is True:
        yield from _inert(view, dataset, path, size)
    # upstream first widens both limits to multiples of the step
    least, most = least - least % steps, most + -most % steps
    for key, holds, limit in (
        ("min_bucket_reso", min(size) >= least, least),
        ("max_bucket_reso", max(size) <= most, most),
    ):
        if not holds:
            message = f"resolution {size[0]}x{size[1]} is outside the buckets: `{key}` is {limit}"
            yield view.config.problem(
                message, _place(view, dataset, path, key), hint=f"give `{key}` with the resolution"
            )


def _inert(view: View, dataset: dict[str, Any], path: KeyPath, size: tuple[int, int]) -> Iterator[Problem]:
    """Warn about bucket limits without effect: upstream compares only the resolution with them, not the images."""
    for key, is_needed in (("min_bucket_reso", min(size).__lt__), ("max_bucket_reso", max(size).__gt__)):
        flag = view.schema.keys.get(key)
        place = _place(view, dataset, path, key)
        if flag and place[-1:] == (key,) and not is_needed(flag.default):
            message = f"`{key}` does nothing with bucket_no_upscale, which takes each bucket from the image's own size"
            yield view.config.problem(message, place, hint="remove it", severity="warning")


def _subset(view: View, subset: Subset) -> Iterator[Problem]:
    repeats = as_number(view.of_subset(subset, "num_repeats"))
    if repeats is not None and repeats < 1:
        place = view.where_subset(subset, "num_repeats")
        yield view.config.problem("`num_repeats` below 1: upstream leaves this subset out", place)
    if view.on("cache_latents") or view.on("cache_latents_to_disk"):
        for key in ("color_aug", "random_crop"):
            if view.of_subset(subset, key) is True:
                hint = "latents of an image that changes cannot be cached: turn one of them off"
                message = f"`{key}` cannot be used while latents are cached"
                yield view.config.problem(message, view.where_subset(subset, key), hint=hint)
    if subset.style == "controlnet" and not view.on("masked_loss"):
        place = (*subset.path, "conditioning_data_dir")
        yield view.config.problem("`conditioning_data_dir` of a subset needs masked_loss = true", place)
