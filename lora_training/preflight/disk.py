"""Check that the checkpoints, states and caches of a training fit on the disks. Quotas are not taken into account."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_training import families, manifest
from lora_training.preflight import sizes
from lora_training.preflight.job import Job
from lora_training.preflight.listing import Subset
from lora_training.problems import Problem

_DEFAULT_STEPS = 1600
_LEAST = 1 << 20  # a log, a record, and the smallest LoRA
_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_THOUSAND = 1000
# estimates may be wrong by this factor; a run that would fit must not be refused
_MARGIN = 2


@dataclass
class _Disk:
    """The expected output on one file system: a folder on it for messages, the total bytes, and a list of the parts."""

    folder: Path
    needed: int = 0
    parts: list[str] = field(default_factory=list)

    def add(self, number: int, size: int, what: str) -> None:
        if number > 0 and size > 0:
            self.needed += number * size
            self.parts.append(f"{number} {what} of {shown(size)}")


def free(folder: Path) -> int:
    """Return the free bytes on the disk of a folder that this user may write."""
    return shutil.disk_usage(folder).free


def problems(
    job: Job, subsets: Sequence[Subset], cached: Collection[str], free: Callable[[Path], int] = free
) -> list[Problem]:
    """Return an error if not even one checkpoint fits, a warning if not everything fits, nothing if sizes are unknown.

    `cached` has the images whose latents are on the disk already.
    """
    with contextlib.suppress(OSError):
        return list(_problems(job, subsets, cached, free))
    return []


def _problems(
    job: Job, subsets: Sequence[Subset], cached: Collection[str], free: Callable[[Path], int]
) -> Iterator[Problem]:
    disks: dict[int, _Disk] = {}
    folder = next(path for path in job.output.parents if path.exists())
    left = free(folder)
    least = _checkpoints(job, subsets, _disk(disks, folder))
    if left < least:
        message = f"the disk of {job.output.parent} has {shown(left)} left; one checkpoint takes {shown(least)}"
        yield Problem(message, "make room, or choose another output_dir")
        return
    _caches(job, subsets, cached, disks)
    for disk in disks.values():
        left = free(disk.folder)
        if left < disk.needed:
            message = f"the disk of {disk.folder} has {shown(left)} left, and about {shown(disk.needed)} are to come"
            hint = f"{', '.join(disk.parts)}; save_last_n_steps and save_last_n_epochs keep fewer checkpoints"
            yield Problem(message, hint, "warning")


def _disk(disks: dict[int, _Disk], folder: Path) -> _Disk:
    return disks.setdefault(folder.stat().st_dev, _Disk(folder))


def _checkpoints(job: Job, subsets: Sequence[Subset], disk: _Disk) -> int:
    """Add the checkpoints that the run will write, less the existing ones; return the least size of one save."""
    # of earlier attempts at this run
    loras, states = (manifest.outputs(job.output, end) for end in (re.escape(job.output.suffix), "-state"))
    all_loras, all_states = saves(job, subsets)
    lora = max(map(size, loras), default=0) or sizes.lora(job) or 0
    state = max(map(size, states), default=0) or sizes.state(job) or 0
    # existing files that are not replaced take space besides the new ones: all with `keeps`, else kept states
    replaced = (0, 0) if job.keeps else (len(loras), sum(not manifest.is_kept(each) for each in states))
    more = max(0, all_loras - replaced[0])
    disk.add(more, lora, "LoRAs")
    # a new state is written before the one that it replaces is removed
    disk.add(max(1, all_states - replaced[1]) if all_states else 0, state, "states")
    sure = (lora if loras else lora // _MARGIN) if more else 0
    sure += (state if states else state // _MARGIN) if all_states else 0
    return max(_LEAST, sure)


def size(path: Path) -> int:
    """Return the size in bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else list(path.rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file())


def _caches(job: Job, subsets: Sequence[Subset], cached: Collection[str], disks: dict[int, _Disk]) -> None:
    for subset in subsets:
        folder = Path(os.path.dirname(subset.images[0])) if subset.images else None
        if folder is None or not folder.is_dir():
            continue
        disk = _disk(disks, folder)
        if job.on("cache_latents_to_disk"):
            missing = sum(image not in cached for image in subset.images)
            disk.add(missing, sizes.latents(job, subset), "cached latents")
        suffix = families.of(job.script).text_outputs
        if job.on("cache_text_encoder_outputs_to_disk") and suffix:
            missing = sum(not os.path.exists(os.path.splitext(image)[0] + suffix) for image in subset.images)
            disk.add(missing, sizes.outputs(job), "cached text encoder outputs")


def shown(size: float) -> str:
    """Return a number of bytes in words."""
    power = min(len(_UNITS) - 1, int(math.log(max(1, size), _THOUSAND)))
    return f"{size / _THOUSAND**power:.3g} {_UNITS[power]}"


def saves(job: Job, subsets: Sequence[Subset]) -> tuple[int, int]:
    """Return the greatest number of LoRAs and of states that exist at one time, the final ones included.

    They are saved by steps and by epochs, and upstream removes some of them again.
    """
    # batches are not filled across buckets, so this is an estimate
    batches = sum(len(s.images) * s.repeats / int(s.options.get("batch_size") or 1) for s in subsets)
    epoch = max(1, math.ceil(batches / (job.number("gradient_accumulation_steps") or 1)))
    steps = int(job.number("max_train_steps") or _DEFAULT_STEPS)
    if job.number("max_train_epochs"):
        steps = int(job.number("max_train_epochs") or 0) * epoch
    loras = _by_steps(job, steps, "save_last_n_steps") + _by_epochs(job, steps, epoch, "save_last_n_epochs")
    states = 0
    if job.on("save_state"):
        states = _by_steps(job, steps, "save_last_n_steps_state", "save_last_n_steps")
        states += _by_epochs(job, steps, epoch, "save_last_n_epochs_state", "save_last_n_epochs")
    last = job.on("save_state") or job.on("save_state_on_train_end")
    return loras + 1, states + last


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
