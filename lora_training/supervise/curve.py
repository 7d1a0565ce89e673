"""The curves of a run: one row for each step on one axis, with resumes, thinned out to the resolution of a screen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from lora_training.supervise.history import Step

# the weight of the past in the smoothed loss
SMOOTHING = 0.95
_Row = tuple[int, "Step | None", "Step | None", float]


def rows(steps: Sequence[Step]) -> list[_Row]:
    """Return (step, its values, its replaced values, smoothed loss), sorted by step.

    A step that was trained again after a resume has the values of the last time; those of the time before are the
    replaced ones, and so are the steps after the resume that have not been trained again yet.
    """
    kept: dict[int, Step] = {}
    replaced: dict[int, Step] = {}
    lowest = math.inf
    for each in reversed(steps):
        if each.step < lowest:
            kept[each.step], lowest = each, each.step
        else:
            replaced.setdefault(each.step, each)
    smooth = math.nan
    found = []
    for step in sorted({*kept, *replaced}):
        now = kept.get(step)
        if now and not math.isnan(now.loss):
            smooth = now.loss if math.isnan(smooth) else SMOOTHING * smooth + (1 - SMOOTHING) * now.loss
        found.append((step, now, replaced.get(step), smooth))
    return found


def thinned(found: list[_Row], points: int) -> list[_Row]:
    """Return at most about `points` of the rows: of each stretch the first, the lowest and the highest loss."""
    if len(found) <= points:
        return found
    stretch = math.ceil(len(found) / (points / 3))
    kept: set[int] = {len(found) - 1}
    for start in range(0, len(found), stretch):
        part = range(start, min(start + stretch, len(found)))
        kept |= {start, min(part, key=lambda at: _loss(found[at])), max(part, key=lambda at: -_loss(found[at], -1))}
    return [found[at] for at in sorted(kept)]


def _loss(row: _Row, sign: int = 1) -> float:
    step = row[1] or row[2]
    return math.inf if step is None or math.isnan(step.loss) else sign * step.loss


def columns(found: Iterable[_Row]) -> dict[str, Any]:
    """Return the rows as columns of JSON values, null for a missing or non-finite one."""
    found = list(found)
    rates = max((len(now.rates) for _, now, _, _ in found if now), default=0)
    now = [row[1] for row in found]
    return {
        "step": [row[0] for row in found],
        "loss": [_plain(each.loss if each else None) for each in now],
        "smooth": [_plain(row[3]) if row[1] else None for row in found],
        "replaced": [_plain(row[2].loss if row[2] else None) for row in found],
        "seconds": [_plain(each.seconds if each else None) for each in now],
        "memory": [_plain(each.memory if each else None) for each in now],
        "lr": [[_plain(each.rates[n] if each and n < len(each.rates) else None) for each in now] for n in range(rates)],
    }


def _plain(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(f"{value:.6g}")
