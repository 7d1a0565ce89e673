"""The configuration keys that differ between the run that saved a state and the one that resumes from it."""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING, Any

from lora_training.supervise import record, states

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from lora_training.app.plan import Plan
    from lora_training.supervise.states import State

_STATE = re.compile(states.PLACE + states.KIND + "$")
# keys without an effect on the training itself, such as the output folder
_PASSED_OVER = re.compile(r"run\..*|flags\.output_dir")
# torch stores the learning rate and settings of each parameter group in the state
_FROM_STATE = re.compile(r"learning_rate|unet_lr|text_encoder_lr\w*|optimizer_\w+|.*loraplus\w*")
# the state holds the schedule's base rates and position; its shape is new if it is a function of the step
_SCHEDULE = re.compile(r"lr_\w+")


def changes(plan: Plan, state: State) -> dict[str, tuple[Any, Any]] | None:
    """Compare a plan with the run that saved a state; return as `from_record`."""
    return from_record(plan, state.path.with_name(_STATE.sub("", state.path.name) + ".run"), state.made_by)


def from_record(plan: Plan, folder: Path, made_by: Mapping[str, str]) -> dict[str, tuple[Any, Any]] | None:
    """Return the old and new value of each key that differs, by name; None for a missing key.

    Returns None when `folder` has no readable configuration of the run that `made_by` identifies.
    """
    from lora_training.app import recording
    from lora_training.config.resolved import parsed

    known = record.read(folder)
    if known is None or known.made_by != dict(made_by):
        return None
    text = recording.config(folder)
    try:
        then = parsed(text) if text is not None else None
    except (ValueError, RecursionError):
        return None
    if then is None:
        return None
    before, after = dict(_leaves("", then)), dict(_leaves("", parsed(recording.resolved(plan))))
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    wanted = [name for name in names if not _PASSED_OVER.fullmatch(name)]
    return {name.removeprefix("flags."): (before.get(name), after.get(name)) for name in wanted}


def lines(found: dict[str, tuple[Any, Any]], shown: int) -> Iterator[str]:
    """Yield `key: old -> new` for the first of them, and the number of the others."""
    for name, (then, now) in itertools.islice(found.items(), shown):
        yield f"{name}: {_said(then)} -> {_said(now)}"
    if len(found) > shown:
        yield f"and {len(found) - shown} more"


def from_state(found: dict[str, tuple[Any, Any]] | None) -> Iterator[str]:
    """Yield notes on the settings that come from a state and override those of the configuration."""
    if found is None:
        yield (
            "learning rates, optimizer settings and the base rates of the schedule come from the state and not from "
            "the configuration"
        )
        return
    rates, schedule = ([name for name in found if kind.fullmatch(name)] for kind in (_FROM_STATE, _SCHEDULE))
    if rates:
        yield f"these come from the state and not from the configuration: {', '.join(rates)}"
    if schedule:
        yield (
            f"the base rates of the schedule and its place come from the state and not from the configuration; at most "
            f"its shape is new: {', '.join(schedule)}"
        )


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _leaves(f"{prefix}.{name}" if prefix else name, each)
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        for number, each in enumerate(value, 1):
            yield from _leaves(f"{prefix}[{number}]", each)
    else:
        yield prefix, value


def _said(value: Any) -> str:
    return "not given" if value is None else json.dumps(value, default=str, ensure_ascii=False)
