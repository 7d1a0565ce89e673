"""Runs beside each other: their results, and the keys of their configurations that differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_training.app import recording, resuming
from lora_training.supervise.record import Record


@dataclass(frozen=True)
class Compared:
    """The names of the runs; for each key that differs, each run's value as text or None where it is not given.

    `unreadable` has the names of runs whose configuration cannot be read; their values are None.
    """

    names: tuple[str, ...]
    keys: dict[str, tuple[str | None, ...]]
    unreadable: tuple[str, ...]


def compare(chosen: Sequence[tuple[Path, Record]]) -> Compared:
    """Compare the recorded configurations of runs: exactly the keys that differ."""
    names = tuple(run.name for _, run in chosen)
    found = [recorded(folder) for folder, _ in chosen]
    readable = [each for each in found if each is not None]
    keys = {
        key: tuple(None if each is None or key not in each else resuming.said(each[key]) for each in found)
        for key in dict.fromkeys(key for each in readable for key in each)
        if len({resuming.said(each[key]) if key in each else None for each in readable}) > 1
    }
    unreadable = tuple(name for name, each in zip(names, found, strict=True) if each is None)
    return Compared(names, {key.removeprefix("flags."): values for key, values in keys.items()}, unreadable)


def recorded(folder: Path) -> dict[str, Any] | None:
    """Return the keys of a run's recorded configuration with their values; None if it cannot be read."""
    from lora_training import tomls

    text = recording.config(folder)
    try:
        return None if text is None else dict(resuming.leaves("", tomls.loads(text)))
    except (ValueError, RecursionError):
        return None
