"""The jobs of the queue: a folder each, whose name gives the order, with a configuration and what became of it.

A folder is `0010-cats`: `config.toml` is a complete configuration, `job.json` its state, and `lock` is held by the
worker that trains it. The name's number is a decimal fraction, so there is always one between two others.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from lora_training import files, locks
from lora_training.errors import LoraError
from lora_training.supervise import record

CONFIG = "config.toml"
_JOB = "job.json"
# a folder that is being made or removed; no job's name begins like this
_PASSING = ".passing-"
_DIGITS, _LONGEST = 4, 100
# the year 5138, in seconds
_LATEST = 10**11


@dataclass(frozen=True)
class Job:
    """A job and its folder. `state` is waiting, paused, running, failed or done; `why` is the reason for it.

    `source` is the file that it was added from, `output` its LoRA, `resume` the state to begin with, if not the newest
    one. `slurm` is its number in Slurm, which then decides when it runs, and `sbatch` the options that it was submitted
    with.
    """

    folder: Path
    source: str
    output: str
    added: float
    resume: str | None = None
    state: str = "waiting"
    why: str | None = None
    slurm: str | None = None
    sbatch: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """The name without its number."""
        return self.folder.name.partition("-")[2]

    @property
    def config(self) -> Path:
        """The complete configuration, a file for `lora train`."""
        return self.folder / CONFIG

    @property
    def is_held(self) -> bool:
        """Whether a worker trains it now. Ask only inside of `locked` or `shown`, since asking takes the lock."""
        return record.is_alive(self.folder)

    def save(self, **changed: Any) -> Job:
        """Write the job with these fields changed, and return it. `why` and `state` change together."""
        job = replace(self, **({"why": None} | changed))
        document = {name: value for name, value in asdict(job).items() if name != "folder"}
        files.write(self.folder / _JOB, json.dumps(document, indent=1) + "\n")
        return job


@contextmanager
def locked(queue: Path) -> Iterator[None]:
    """Hold the queue while jobs are added, moved, taken or removed; never while one is trained."""
    queue.mkdir(parents=True, exist_ok=True)
    with locks.exclusive(queue):
        yield


def shown(queue: Path) -> AbstractContextManager[None]:
    """Hold the queue for reading."""
    return locks.shared(queue) if queue.is_dir() else nullcontext()


def read(queue: Path) -> list[Job]:
    """Return the jobs in their order. A folder without a readable job is left out."""
    folders = sorted(queue.iterdir()) if queue.is_dir() else []
    return [job for folder in folders if folder.name[:1].isdecimal() and (job := _read(folder))]


def _read(folder: Path) -> Job | None:
    found, known = files.read_json(folder / _JOB), {each.name for each in fields(Job)}
    try:
        job = Job(**{name: value for name, value in found.items() if name in known}, folder=folder)
        texts = [job.source, job.output, job.state, job.why or "", job.resume or "", job.slurm or ""]
        texts += job.sbatch or ()
        has_date = 0 <= job.added < _LATEST
    except TypeError:
        return None
    if not has_date or not all(isinstance(text, str) for text in texts):
        return None
    return job if job.sbatch is None else replace(job, sbatch=tuple(job.sbatch))


def find(queue: Path, name: str) -> Job:
    """Return the job of that name, with or without its number. Raises LoraError if there is none, or more than one."""
    found = read(queue)
    matching = [job for job in found if name == job.folder.name] or [job for job in found if name == job.name]
    if len(matching) == 1:
        return matching[0]
    if matching:
        known = ", ".join(job.folder.name for job in matching)
        raise LoraError(f"there are {len(matching)} jobs {name!r}", hint=f"name one with its number: {known}")
    known = ", ".join(job.folder.name for job in found) or "none yet"
    raise LoraError(f"there is no job {name!r} in the queue", hint=f"jobs: {known}")


def put(queue: Path, job: Job, config: str) -> Job:
    """Add a job, whose folder has only its name, at the end. Use it inside of `locked`."""
    last = max((each.folder.name.partition("-")[0] for each in read(queue)), default="0")
    made = replace(job, folder=queue / f"{_PASSING}{os.getpid()}")
    shutil.rmtree(made.folder, ignore_errors=True)
    made.folder.mkdir()
    files.write(made.config, config)
    made.save()
    return replace(job, folder=made.folder.rename(queue / f"{_after(last)}-{job.folder.name[:_LONGEST]}"))


def move(queue: Path, job: Job, before: Job | None) -> Job:
    """Move a job to the place before another one, or to the end. Use it inside of `locked`."""
    order = [each for each in read(queue) if each.folder != job.folder]
    place = next((n for n, each in enumerate(order) if before and each.folder == before.folder), len(order))
    numbers = [each.folder.name.partition("-")[0] for each in order]
    earlier = numbers[place - 1] if place else "0"
    number = between(earlier, numbers[place]) if place < len(order) else _after(earlier)
    return replace(job, folder=job.folder.rename(queue / f"{number}-{job.name}"))


def remove(job: Job) -> None:
    """Remove a job. Use it inside of `locked`."""
    passing = job.folder.with_name(f"{_PASSING}{os.getpid()}")
    shutil.rmtree(passing, ignore_errors=True)
    shutil.rmtree(job.folder.rename(passing))


def between(low: str, high: str) -> str:
    """Return digits that sort after `low` and before `high`, both taken as what follows a decimal point."""
    width = max(len(low), len(high)) + 1
    middle = (int(low.ljust(width, "0")) + int(high.ljust(width, "0"))) // 2
    return f"{middle:0{width}}".rstrip("0").ljust(_DIGITS, "0")


def _after(last: str) -> str:
    """Return the number of a job at the end: the next ten, if four digits have room for it."""
    following = int(last.ljust(_DIGITS, "0")[:_DIGITS]) // 10 * 10 + 10
    return f"{following:0{_DIGITS}}" if following < 10**_DIGITS else between(last, "9" * (len(last) + 1))
