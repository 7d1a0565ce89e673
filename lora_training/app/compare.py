"""Comparison of recorded configurations: of runs beside each other, and of a plan with an earlier run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_training import tomls
from lora_training.app import recording
from lora_training.supervise import record
from lora_training.supervise.record import Record

if TYPE_CHECKING:
    from lora_training.app.plan import Plan

# keys without an effect on the training itself, such as the output folder
_PASSED_OVER = re.compile(r"run\..*|flags\.output_dir")


@dataclass(frozen=True)
class Compared:
    """For each key that differs, each run's value as text or None where it is not given.

    `unreadable` has the names of runs whose configuration cannot be read; their values are None.
    """

    keys: dict[str, tuple[str | None, ...]]
    unreadable: tuple[str, ...]


def compare(chosen: Sequence[tuple[Path, Record]]) -> Compared:
    """Compare the recorded configurations of runs: exactly the keys that differ."""
    found = [_recorded(folder) for folder, _ in chosen]
    readable = [each for each in found if each is not None]
    keys = {
        key: tuple(None if each is None or key not in each else said(each[key]) for each in found)
        for key in dict.fromkeys(key for each in readable for key in each)
        if len({said(each[key]) if key in each else None for each in readable}) > 1
    }
    unreadable = tuple(run.name for (_, run), each in zip(chosen, found, strict=True) if each is None)
    return Compared({key.removeprefix("flags."): values for key, values in keys.items()}, unreadable)


def changes(plan: Plan, folder: Path, made_by: Mapping[str, str]) -> dict[str, tuple[Any, Any]] | None:
    """Return the old and new value of each key in which a plan differs from the run in `folder`; None: not given.

    Returns None when `folder` has no readable configuration of the run that `made_by` identifies.
    """
    known = record.read(folder)
    before = _recorded(folder) if known and known.made_by == dict(made_by) else None
    if before is None:
        return None
    after = dict(_leaves("", tomls.loads(recording.resolved(plan))))
    names = (name for name in {**before, **after} if before.get(name) != after.get(name))
    wanted = (name for name in names if not _PASSED_OVER.fullmatch(name))
    return {name.removeprefix("flags."): (before.get(name), after.get(name)) for name in wanted}


def _recorded(folder: Path) -> dict[str, Any] | None:
    """Return the keys of a run's recorded configuration with their values; None if it cannot be read."""
    text = recording.config(folder)
    try:
        return None if text is None else dict(_leaves("", tomls.loads(text)))
    except (ValueError, RecursionError):
        return None


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield each key of nested tables with its value; the first table of a list is `datasets.0`, as for `--set`."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _leaves(f"{prefix}.{name}" if prefix else name, each)
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        for number, each in enumerate(value):
            yield from _leaves(f"{prefix}.{number}", each)
    else:
        yield prefix, value


def said(value: Any) -> str:
    """Return a value as text; None is a key that is not given."""
    return "not given" if value is None else json.dumps(value, default=str, ensure_ascii=False)
