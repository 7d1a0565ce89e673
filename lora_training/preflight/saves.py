"""Count the checkpoints and states that a training keeps on the disk, from its flags."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lora_training.preflight.finding import Job
    from lora_training.preflight.listing import Subset

_DEFAULT_STEPS = 1600


@dataclass(frozen=True)
class Saves:
    """The greatest number of files that exist at one time, the final ones included."""

    loras: int
    states: int


def count(job: Job, subsets: Sequence[Subset]) -> Saves:
    """Count the saves by steps and by epochs, less those that upstream removes again."""
    epoch = _epoch(job, subsets)
    steps = int(job.number("max_train_steps") or _DEFAULT_STEPS)
    if job.number("max_train_epochs"):
        steps = int(job.number("max_train_epochs") or 0) * epoch
    loras = _by_steps(job, steps, "save_last_n_steps") + _by_epochs(job, steps, epoch, "save_last_n_epochs")
    states = 0
    if job.on("save_state"):
        states = _by_steps(job, steps, "save_last_n_steps_state", "save_last_n_steps")
        states += _by_epochs(job, steps, epoch, "save_last_n_epochs_state", "save_last_n_epochs")
    last = job.on("save_state") or job.on("save_state_on_train_end")
    return Saves(loras + 1, states + last)


def _epoch(job: Job, subsets: Sequence[Subset]) -> int:
    """Estimate the steps of an epoch: batches are not filled across buckets."""
    batches = sum(len(s.images) * s.repeats / int(s.options.get("batch_size") or 1) for s in subsets)
    return max(1, math.ceil(batches / (job.number("gradient_accumulation_steps") or 1)))


def _by_steps(job: Job, steps: int, *last: str) -> int:
    every = int(job.number("save_every_n_steps") or 0)
    if every < 1:
        return 0
    kept = _first(job, *last)
    # the oldest is removed only after the new one is saved
    return min(steps // every, kept // every + 2) if kept is not None else steps // every


def _by_epochs(job: Job, steps: int, epoch: int, *last: str) -> int:
    epochs = math.ceil(steps / epoch)
    ratio = int(job.number("save_n_epoch_ratio") or 0)
    every = max(1, epochs // ratio) if ratio > 0 else int(job.number("save_every_n_epochs") or 0)
    if every < 1:
        return 0
    kept = _first(job, *last)
    done = (epochs - 1) // every
    return min(done, kept + 1) if kept is not None else done


def _first(job: Job, *names: str) -> int | None:
    return next((int(number) for name in names if (number := job.number(name))), None)
