"""The tables of a dataset configuration, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

# a subset has the first style whose key it has, as in upstream
STYLE_KEYS = {"controlnet": "conditioning_data_dir", "finetuning": "metadata_file", "dreambooth": "image_dir"}


@dataclass(frozen=True)
class Shape:
    """The accepted values of a key: names of scalar types, and optionally a sequence of fixed length."""

    scalars: tuple[str, ...]
    sequence: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the shape as shown in messages: `int or [int, int]`."""
        sequence = [f"[{', '.join(self.sequence)}]"] if self.sequence else []
        return " or ".join([*(s for s in self.scalars if s != "none"), *sequence])


@dataclass(frozen=True)
class Table:
    """The keys of a table, and which of them are required."""

    keys: dict[str, Shape]
    required: tuple[str, ...] = ()


@dataclass(frozen=True)
class Style:
    """The keys of a dataset of one style and of its subsets."""

    dataset: Table
    subset: Table


@dataclass(frozen=True)
class DatasetSchema:
    """The tables that upstream accepts in a dataset configuration: `[general]`, and each style of `[[datasets]]`."""

    general: Table
    styles: dict[str, Style]
