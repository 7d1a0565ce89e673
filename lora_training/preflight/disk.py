"""Check that the expected output fits on the disks. Quotas are not taken into account."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lora_training import families, manifest
from lora_training.preflight import saves, sizes
from lora_training.preflight.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from lora_training.preflight.finding import Job
    from lora_training.preflight.listing import Subset

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
            self.parts.append(f"{number} {what} of {_shown(size)}")


def free(folder: Path) -> int:
    """Return the free bytes on the disk of a folder that this user may write."""
    return shutil.disk_usage(folder).free


def findings(
    job: Job, subsets: Sequence[Subset], cached: Collection[str], free: Callable[[Path], int] = free
) -> list[Finding]:
    """Return an error if not even one checkpoint fits, a warning if not everything fits, nothing if sizes are unknown.

    `cached` has the images whose latents are on the disk already.
    """
    with contextlib.suppress(OSError):
        return list(_findings(job, subsets, cached, free))
    return []


def _findings(
    job: Job, subsets: Sequence[Subset], cached: Collection[str], free: Callable[[Path], int]
) -> Iterator[Finding]:
    disks: dict[int, _Disk] = {}
    folder = next(path for path in job.output.parents if path.exists())
    there = free(folder)
    least = _checkpoints(job, subsets, _disk(disks, folder))
    if there < least:
        message = f"the disk of {job.output.parent} has {_shown(there)} left; one checkpoint takes {_shown(least)}"
        yield Finding(message, "make room, or choose another output_dir")
        return
    _caches(job, subsets, cached, disks)
    yield from _short(disks.values(), free)


def _short(disks: Collection[_Disk], free: Callable[[Path], int]) -> Iterator[Finding]:
    for disk in disks:
        there = free(disk.folder)
        if there < disk.needed:
            message = f"the disk of {disk.folder} has {_shown(there)} left, and about {_shown(disk.needed)} are to come"
            hint = f"{', '.join(disk.parts)}; save_last_n_steps and save_last_n_epochs keep fewer checkpoints"
            yield Finding(message, hint, "warning")


def _disk(disks: dict[int, _Disk], folder: Path) -> _Disk:
    return disks.setdefault(folder.stat().st_dev, _Disk(folder))


def _checkpoints(job: Job, subsets: Sequence[Subset], disk: _Disk) -> int:
    """Add the checkpoints that the run will write, less the existing ones; return the least size of one save."""
    loras, states = _earlier(job.output)
    number = saves.count(job, subsets)
    lora = max(map(_size, loras), default=0) or sizes.lora(job) or 0
    state = max(map(_size, states), default=0) or sizes.state(job) or 0
    # existing files that are not replaced take space besides the new ones: all with `keeps`, else kept states
    there = (0, 0) if job.keeps else (len(loras), sum(not manifest.is_kept(each) for each in states))
    more = max(0, number.loras - there[0])
    disk.add(more, lora, "LoRAs")
    # a new state is written before the one that it replaces is removed
    disk.add(max(1, number.states - there[1]) if number.states else 0, state, "states")
    sure = (lora if loras else lora // _MARGIN) if more else 0
    sure += (state if states else state // _MARGIN) if number.states else 0
    return max(_LEAST, sure)


def _earlier(output: Path) -> tuple[list[Path], list[Path]]:
    """Return the LoRAs and the states that earlier attempts at this run have written."""
    ours = re.compile(rf"{re.escape(output.stem)}(?:-step\d{{8,}}|-\d{{6,}})?(-state|{re.escape(output.suffix)})")
    found: dict[str, list[Path]] = {"-state": [], output.suffix: []}
    for path in output.parent.iterdir() if output.parent.is_dir() else ():
        match = ours.fullmatch(path.name)
        if match:
            found[match[1]].append(path)
    return found[output.suffix], found["-state"]


def _size(path: Path) -> int:
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


def _shown(size: float) -> str:
    power = min(len(_UNITS) - 1, int(math.log(max(1, size), _THOUSAND)))
    return f"{size / _THOUSAND**power:.3g} {_UNITS[power]}"
