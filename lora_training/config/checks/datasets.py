"""Check `[[datasets]]` and `[general]` against upstream's own schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lora_training import families, nearest
from lora_training.config.checks.view import Subset, View, as_number, is_whole
from lora_training.config.model import Config
from lora_training.config.positions import Path as KeyPath
from lora_training.config.schema import DatasetSchema, Schema, Shape, Style, Table
from lora_training.config.schema.model import STYLE_KEYS
from lora_training.problems import Problem, Severity

_NUMBERS = re.compile(r"\d{1,9}(?:,\d{1,9})*")
_TYPES: dict[str, type | tuple[type, ...]] = {"bool": bool, "int": int, "float": float, "str": str, "dict": dict}


def problems(view: View) -> Iterator[Problem]:
    """Yield the problems that upstream's schema would report in the dataset tables, and datasets without content."""
    yield from tables(view)
    yield from _presence(view)
    yield from _overridden(view)


def tables(view: View) -> Iterator[Problem]:
    """Yield the problems that upstream's schema would report in `[general]` and `[[datasets]]`, and missing subsets."""
    config, schema = view.config, view.schema
    yield from _table(config, schema, dict(config.general), schema.datasets.general, ("general",))
    for number, dataset in enumerate(config.datasets):
        yield from _dataset(config, schema, dataset, ("datasets", number))


def _presence(view: View) -> Iterator[Problem]:
    config = view.config
    elsewhere = [key for key in ("dataset_config", "train_data_dir", "in_json", "dataset_class") if view.given(key)]
    if not config.datasets and not elsewhere:
        hint = "add [[datasets]] with [[datasets.subsets]] and an image_dir"
        yield config.problem("there is nothing to train on: no [[datasets]]", (), hint=hint)
    if not config.datasets:
        return
    for key in elsewhere:
        message = f"`{key}` has no effect beside [[datasets]]"
        severity: Severity = "error" if key == "dataset_config" else "warning"
        yield view.problem(message, key, hint="keep one of the two", severity=severity)
    if view.given("reg_data_dir"):
        hint = "give its folder to a subset with is_reg = true"
        message = "`reg_data_dir` has no effect beside [[datasets]]"
        yield view.problem(message, "reg_data_dir", hint=hint, severity="warning")


def _overridden(view: View) -> Iterator[Problem]:
    """Yield the flags that every subset has another value for; one that overrides the file is an error."""
    style = view.schema.datasets.styles["dreambooth"]
    for key in sorted({*style.dataset.keys, *style.subset.keys}):
        flag = families.OPTION_FLAGS.get(key, key)
        places = [view.where_subset(subset, key) for subset in view.subsets]
        if view.given(flag) and places and all(place[0] != view.path(flag)[0] and place[-1] == key for place in places):
            hint = f"`{'.'.join(map(str, places[0]))}` counts: change that one"
            message = f"`{flag}` changes nothing: the datasets have a `{key}` of their own"
            severity: Severity = "warning" if view.config.entries[flag].position else "error"
            yield view.problem(message, flag, hint=hint, severity=severity)


def _dataset(config: Config, schema: Schema, dataset: dict[str, Any], path: KeyPath) -> Iterator[Problem]:
    subsets = dataset.get("subsets")
    own = {key: value for key, value in dataset.items() if key != "subsets"}
    tables = subsets if isinstance(subsets, list) else []
    style = _style(schema.datasets, tables)
    yield from _table(config, schema, own, style.dataset, path)
    if not isinstance(subsets, list) or not subsets:
        hint = "add [[datasets.subsets]] with an image_dir"
        yield config.problem("this dataset has no subsets", (*path, "subsets"), hint=hint)
    for number, table in enumerate(tables):
        below = (*path, "subsets", number)
        if isinstance(table, dict):
            yield from _table(config, schema, table, style.subset, below)
        else:
            yield config.problem("a subset must be a table", below)
    yield from _mixed(config, tables, path)


def _style(schema: DatasetSchema, subsets: list[Any]) -> Style:
    """Return the style whose key all subsets have, as upstream chooses it; by default that of image folders."""
    tables = [table for table in subsets if isinstance(table, dict)]
    for name, key in STYLE_KEYS.items():
        if tables and all(key in table for table in tables):
            return schema.styles[name]
    return schema.styles["dreambooth"]


def _mixed(config: Config, subsets: list[Any], path: KeyPath) -> Iterator[Problem]:
    key = STYLE_KEYS["finetuning"]
    has = [key in table for table in subsets if isinstance(table, dict)]
    if any(has) and not all(has):
        message = f"subsets with and without `{key}` cannot be mixed in one dataset"
        yield config.problem(message, path, hint="put them under separate [[datasets]]")


def _table(config: Config, schema: Schema, table: dict[str, Any], known: Table, path: KeyPath) -> Iterator[Problem]:
    for key, value in table.items():
        shape = known.keys.get(key)
        if shape is None:
            hint = _hint(schema, key, known)
            yield config.problem(f"{_name(path)} has no key `{key}`", (*path, key), hint=hint)
        elif not fits(shape, value):
            hint = f"write {value}.0" if shape.scalars == ("float",) and is_whole(value) else None
            yield config.problem(f"`{key}` must be {shape}, not {value!r}", (*path, key), hint=hint)
    for key in known.required:
        if key not in table:
            yield config.problem(f"`{key}` is missing in {_name(path)}", path)


def fits(shape: Shape, value: Any) -> bool:
    """Whether upstream's schema accepts the value; a boolean does not count as a number."""
    if isinstance(value, list):
        pairs = zip(value, shape.sequence, strict=False)
        return bool(value) and len(value) == len(shape.sequence) and all(_is(name, item) for item, name in pairs)
    return any(_is(name, value) for name in shape.scalars)


def _is(name: str, value: Any) -> bool:
    return name in _TYPES and isinstance(value, _TYPES[name]) and (name == "bool" or not isinstance(value, bool))


def _hint(schema: Schema, key: str, known: Table) -> str | None:
    """Return the nearest key of this table, or the name of another table that has the key."""
    near = nearest.hint(key, [*known.keys, *(["subsets"] if known.keys.keys() >= {"batch_size"} else [])])
    elsewhere = schema.datasets.styles["dreambooth"]
    if key in elsewhere.subset.keys:
        return f"`{key}` belongs under [[datasets.subsets]]"
    if key in elsewhere.dataset.keys:
        return f"`{key}` belongs under [[datasets]]"
    if schema.flag(key):
        return f"`{key}` is one of the script's own options: give it outside the dataset tables"
    return near


def _name(path: KeyPath) -> str:
    if path == ("general",):
        return "[general]"
    return "[[datasets.subsets]]" if "subsets" in path else "[[datasets]]"


# -- sizes, buckets and other conditions that upstream asserts


def sizes(view: View) -> Iterator[Problem]:
    """Yield the datasets that upstream would refuse, which it does only after loading everything."""
    for number, dataset in enumerate(view.config.datasets):
        yield from _sizes(view, dataset, ("datasets", number))
    for subset in view.subsets:
        yield from _subset(view, subset)
    if not view.config.datasets and (view.given("train_data_dir") or view.given("in_json")):
        yield from _sizes(view, {}, ())


def _sizes(view: View, dataset: dict[str, Any], path: KeyPath) -> Iterator[Problem]:
    given = view.inherited("resolution", dataset)
    size = _resolution(given)
    # a value of another type has been refused by the schema
    is_number = isinstance(given, list) and len(given) in (1, 2) and all(map(is_whole, given))
    if size is None and (given is None or isinstance(given, str) or is_whole(given) or is_number):
        hint = "for example resolution = [1024, 1024]"
        yield view.config.problem(
            "this dataset has no usable `resolution`", view.where("resolution", (dataset, path)), hint=hint
        )
    batch = as_number(view.inherited("batch_size", dataset))
    if batch is not None and batch < 1:
        yield view.config.problem("`batch_size` must be 1 or more", view.where("batch_size", (dataset, path)))
    if view.inherited("enable_bucket", dataset) is True:
        yield from _buckets(view, dataset, path, size)


def _resolution(value: Any) -> tuple[int, int] | None:
    """Return width and height from a number, a pair, or upstream's `"width,height"`; None for anything else."""
    parts = value if isinstance(value, list) else [value]
    if isinstance(value, str):
        parts = list(map(int, value.split(","))) if _NUMBERS.fullmatch(value) else []
    match parts * 2 if len(parts) == 1 else parts:
        case [width, height] if is_whole(width) and is_whole(height) and min(width, height) > 0:
            return width, height
    return None


def _buckets(view: View, dataset: dict[str, Any], path: KeyPath, size: tuple[int, int] | None) -> Iterator[Problem]:
    numbers = [view.inherited(k, dataset) for k in ("bucket_reso_steps", "min_bucket_reso", "max_bucket_reso")]
    if not all(is_whole(n) and n > 0 for n in numbers):
        return
    steps, least, most = numbers
    needed = view.schema.bucket_steps
    if steps % needed:
        message = f"`bucket_reso_steps` must be a multiple of {needed} for {view.schema.script}, not {steps}"
        yield view.config.problem(message, view.where("bucket_reso_steps", (dataset, path)), hint=f"use {needed}")
    if size is None:
        return
    if view.inherited("bucket_no_upscale", dataset) is True:
        yield from _inert(view, dataset, path, size)
    # upstream first widens both limits to multiples of the step
    least, most = least - least % steps, most + -most % steps
    smallest, largest = min(size) // steps * steps, -(-max(size) // steps) * steps
    for key, holds, limit, fitting in (
        ("min_bucket_reso", min(size) >= least, least, smallest),
        ("max_bucket_reso", max(size) <= most, most, largest),
    ):
        if not holds:
            message = f"resolution {size[0]}x{size[1]} is outside the buckets: `{key}` is {limit}"
            hint = f"set {key} = {fitting}" if fitting else f"give a resolution of {steps} or more"
            yield view.config.problem(message, view.where(key, (dataset, path)), hint=hint)


def _inert(view: View, dataset: dict[str, Any], path: KeyPath, size: tuple[int, int]) -> Iterator[Problem]:
    """Warn about bucket limits without effect: upstream compares only the resolution with them, not the images."""
    for key, is_needed in (("min_bucket_reso", min(size).__lt__), ("max_bucket_reso", max(size).__gt__)):
        flag = view.schema.keys.get(key)
        place = view.where(key, (dataset, path))
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
