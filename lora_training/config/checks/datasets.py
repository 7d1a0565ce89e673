"""Check `[[datasets]]` and `[general]` against upstream's own schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lora_training import nearest
from lora_training.config.schema.model import STYLE_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lora_training.config.checks.view import View
    from lora_training.config.model import Config
    from lora_training.config.positions import Path as KeyPath
    from lora_training.config.schema import DatasetSchema, Schema, Shape, Style, Table
    from lora_training.problems import Problem, Severity

_TYPES: dict[str, type | tuple[type, ...]] = {"bool": bool, "int": int, "float": float, "str": str, "dict": dict}


def problems(view: View) -> Iterator[Problem]:
    """Yield the problems that upstream's schema would report in the dataset tables, and datasets without content."""
    yield from tables(view)
    yield from _presence(view)


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
            hint = f"write {value}.0" if shape.scalars == ("float",) and _is_whole(value) else None
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


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


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
