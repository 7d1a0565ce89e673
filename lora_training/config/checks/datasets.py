"""Check `[[datasets]]` and `[general]` against upstream's own schema."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lora_training import families, nearest
from lora_training.config.checks.view import Scope, View, as_number, is_whole
from lora_training.config.positions import Path as KeyPath
from lora_training.config.schema import DatasetSchema, Schema, Shape, Style, Table
from lora_training.config.schema.model import STYLE_KEYS
from lora_training.problems import Problem, Severity

_NUMBERS = re.compile(r"\d{1,9}(?:,\d{1,9})*")
_DATASETS, _SUBSETS = "[[datasets]]", "[[datasets.subsets]]"
_TYPES: dict[str, type | tuple[type, ...]] = {"bool": bool, "int": int, "float": float, "str": str, "dict": dict}


def problems(view: View) -> Iterator[Problem]:
    """Yield the problems that upstream's schema would report, datasets without content, and flags without effect."""
    yield from tables(view)
    yield from _presence(view)
    yield from _overridden(view)


def tables(view: View) -> Iterator[Problem]:
    """Yield the problems that upstream's schema would report in `[general]` and `[[datasets]]`, and missing subsets."""
    yield from _table(view, view.config.general, view.schema.datasets.general, ("general",))
    for number, dataset in enumerate(view.config.datasets):
        yield from _dataset(view, dataset, ("datasets", number))


def _presence(view: View) -> Iterator[Problem]:
    config = view.config
    elsewhere = [key for key in ("dataset_config", "train_data_dir", "in_json", "dataset_class") if view.given(key)]
    if not config.datasets:
        hint = "add [[datasets]] with [[datasets.subsets]] and an image_dir"
        if not elsewhere:
            yield config.problem("there is nothing to train on: no [[datasets]]", ("datasets",), hint=hint)
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
        places = [subset.place(key) for subset in view.subsets]
        if view.given(flag) and places and all(place[0] != view.path(flag)[0] and place[-1] == key for place in places):
            hint = f"`{'.'.join(map(str, places[0]))}` counts: change that one"
            message = f"`{flag}` changes nothing: the datasets have a `{key}` of their own"
            severity: Severity = "warning" if view.config.entries[flag].position else "error"
            yield view.problem(message, flag, hint=hint, severity=severity)


def _dataset(view: View, dataset: dict[str, Any], path: KeyPath) -> Iterator[Problem]:
    subsets = dataset.get("subsets")
    own = {key: value for key, value in dataset.items() if key != "subsets"}
    tables = subsets if isinstance(subsets, list) else []
    style = _style(view.schema.datasets, tables)
    yield from _table(view, own, style.dataset, path)
    if not tables:
        hint = "add [[datasets.subsets]] with an image_dir"
        yield view.config.problem("this dataset has no subsets", (*path, "subsets"), hint=hint)
    for number, table in enumerate(tables):
        below = (*path, "subsets", number)
        if isinstance(table, dict):
            yield from _table(view, table, style.subset, below)
        else:
            yield view.config.problem("a subset must be a table", below)
    key = STYLE_KEYS["finetuning"]
    if len({key in table for table in tables if isinstance(table, dict)}) > 1:
        message = f"subsets with and without `{key}` cannot be mixed in one dataset"
        yield view.config.problem(message, path, hint="put them under separate [[datasets]]")


def _style(schema: DatasetSchema, subsets: list[Any]) -> Style:
    """Return the style whose key all subsets have, as upstream chooses it; by default that of image folders."""
    tables = [table for table in subsets if isinstance(table, dict)]
    for name, key in STYLE_KEYS.items():
        if tables and all(key in table for table in tables):
            return schema.styles[name]
    return schema.styles["dreambooth"]


def _table(view: View, table: Mapping[str, Any], known: Table, path: KeyPath) -> Iterator[Problem]:
    name = "[general]" if path == ("general",) else _SUBSETS if "subsets" in path else _DATASETS
    for key, value in table.items():
        shape = known.keys.get(key)
        if shape is None:
            message = f"{name} has no key `{key}`"
            yield view.config.problem(message, (*path, key), hint=_hint(view.schema, key, known))
        elif not fits(shape, value):
            hint = f"write {value}.0" if shape.scalars == ("float",) and is_whole(value) else None
            yield view.config.problem(f"`{key}` must be {shape}, not {value!r}", (*path, key), hint=hint)
    for key in known.required:
        if key not in table:
            yield view.config.problem(f"`{key}` is missing in {name}", path)


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
    elsewhere = schema.datasets.styles["dreambooth"]
    if key in elsewhere.subset.keys or key in elsewhere.dataset.keys:
        return f"put `{key}` under {_SUBSETS if key in elsewhere.subset.keys else _DATASETS}"
    if schema.flag(key):
        return f"`{key}` is one of the script's own options: give it outside the dataset tables"
    return nearest.hint(key, [*known.keys, *(["subsets"] if known.keys.keys() >= {"batch_size"} else [])])


# -- sizes, buckets and other conditions that upstream asserts


def sizes(view: View) -> Iterator[Problem]:
    """Yield the datasets that upstream would refuse, which it does only after loading everything."""
    flags_alone = Scope(view, (({}, ()), (view.config.general, ("general",))))
    has_none = not view.config.datasets and (view.given("train_data_dir") or view.given("in_json"))
    for dataset in (flags_alone,) if has_none else view.datasets:
        yield from _sizes(dataset)
    for subset in view.subsets:
        yield from _subset(subset)


def _sizes(dataset: Scope) -> Iterator[Problem]:
    given = dataset.value("resolution")
    size = _resolution(given)
    # a value of another type has been refused by the schema
    is_number = isinstance(given, list) and len(given) in (1, 2) and all(map(is_whole, given))
    if size is None and (given is None or isinstance(given, str) or is_whole(given) or is_number):
        hint = "for example resolution = [1024, 1024]"
        yield dataset.problem("this dataset has no usable `resolution`", "resolution", hint=hint)
    batch = as_number(dataset.value("batch_size"))
    if batch is not None and batch < 1:
        yield dataset.problem("`batch_size` must be 1 or more", "batch_size")
    if dataset.value("enable_bucket") is True:
        yield from _buckets(dataset, size)


def _resolution(value: Any) -> tuple[int, int] | None:
    """Return width and height from a number, a pair, or upstream's `"width,height"`; None for anything else."""
    parts = value if isinstance(value, list) else [value]
    if isinstance(value, str):
        parts = list(map(int, value.split(","))) if _NUMBERS.fullmatch(value) else []
    match parts * 2 if len(parts) == 1 else parts:
        case [width, height] if is_whole(width) and is_whole(height) and min(width, height) > 0:
            return width, height
    return None


def _buckets(dataset: Scope, size: tuple[int, int] | None) -> Iterator[Problem]:
    numbers = [dataset.value(key) for key in ("bucket_reso_steps", "min_bucket_reso", "max_bucket_reso")]
    if not all(is_whole(n) and n > 0 for n in numbers):
        return
    steps, least, most = numbers
    schema = dataset.view.schema
    if steps % schema.bucket_steps:
        message = f"`bucket_reso_steps` must be a multiple of {schema.bucket_steps} for {schema.script}, not {steps}"
        yield dataset.problem(message, "bucket_reso_steps", hint=f"use {schema.bucket_steps}")
    if size is None:
        return
    if dataset.value("bucket_no_upscale") is True:
        yield from _inert(dataset, size)
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
            yield dataset.problem(message, key, hint=hint)


def _inert(dataset: Scope, size: tuple[int, int]) -> Iterator[Problem]:
    """Warn about bucket limits without effect: upstream compares only the resolution with them, not the images."""
    for key, is_needed in (("min_bucket_reso", min(size).__lt__), ("max_bucket_reso", max(size).__gt__)):
        flag = dataset.view.schema.keys.get(key)
        if flag and dataset.place(key)[-1:] == (key,) and not is_needed(flag.default):
            message = f"`{key}` does nothing with bucket_no_upscale, which takes each bucket from the image's own size"
            yield dataset.problem(message, key, hint="remove it", severity="warning")


def _subset(subset: Scope) -> Iterator[Problem]:
    view = subset.view
    repeats = as_number(subset.value("num_repeats"))
    if repeats is not None and repeats < 1:
        yield subset.problem("`num_repeats` below 1: upstream leaves this subset out", "num_repeats")
    if view.on("cache_latents") or view.on("cache_latents_to_disk"):
        for key in ("color_aug", "random_crop"):
            if subset.value(key) is True:
                hint = "latents of an image that changes cannot be cached: turn one of them off"
                yield subset.problem(f"`{key}` cannot be used while latents are cached", key, hint=hint)
    if subset.style == "controlnet" and not view.on("masked_loss"):
        message = "`conditioning_data_dir` of a subset needs masked_loss = true"
        yield subset.problem(message, "conditioning_data_dir")
