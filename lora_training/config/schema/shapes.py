"""What a dataset configuration may hold, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

# a subset is of the first style of which it has the key; this is also how upstream tells them apart
STYLE_KEYS = {"controlnet": "conditioning_data_dir", "finetuning": "metadata_file", "dreambooth": "image_dir"}


@dataclass(frozen=True)
class Shape:
    """The values that a key takes: scalars by the name of their type, and perhaps a sequence of fixed length."""

    scalars: tuple[str, ...]
    sequence: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As a message says it: `int or [int, int]`."""
        sequence = [f"[{', '.join(self.sequence)}]"] if self.sequence else []
        return " or ".join([*(s for s in self.scalars if s != "none"), *sequence])


@dataclass(frozen=True)
class Table:
    """The keys of a table and which of them must be there."""

    keys: dict[str, Shape]
    required: tuple[str, ...] = ()


@dataclass(frozen=True)
class Style:
    """A dataset of one style: its own keys, and those of its subsets."""

    dataset: Table
    subset: Table


@dataclass(frozen=True)
class DatasetSchema:
    """What upstream accepts in a dataset configuration: `[general]`, and each style of `[[datasets]]`."""

    general: Table
    styles: dict[str, Style]
