"""Slurm, through its documented commands: submit a job, ask for its state, cancel it, and queue it again."""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from lora_training import proc
from lora_training.config.tables import LaunchTable
from lora_training.errors import Interrupted, MachineLost, SlurmError
from lora_training.launch import slurm
from lora_training.launch.slurm import Needs
from lora_training.supervise import jobs, record
from lora_training.supervise.jobs import Job
from lora_training.workspace import Workspace

_ID = "SLURM_JOB_ID"
_FRESH_S = 5
_MOST_RESTARTS = 3  # without a saved state
_NEARLY_OVER = (signal.SIGUSR1, signal.SIGUSR2)
# of each line that Slurm's commands print
_BEFORE = re.compile(r"^\w+: (error: |fatal: )?", re.MULTILINE)


def machine() -> int:
    """Return the number of this machine in a batch job of several nodes; 0 elsewhere."""
    return int(os.environ.get("SLURM_NODEID", "0")) if _ID in os.environ else 0


def rendezvous(launch: LaunchTable) -> tuple[str, ...]:
    """Return the overrides by which the machines of a batch job meet: on the node of its script, number 0."""
    number = os.environ.get(_ID, "")
    if (launch.num_machines or 1) == 1 or not number.isdecimal():
        return ()
    address = os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")
    # jobs on the same node need different ports
    port = launch.main_process_port or 20000 + int(number) % 20000
    places = {"machine_rank": machine(), "main_process_ip": address, "main_process_port": port}
    return tuple(f"launch.{name}={value}" for name, value in places.items())


def needs(launch: LaunchTable, options: tuple[str, ...]) -> Needs:
    """Return the resources that a training asks for on this cluster. Raises SlurmError where there is no Slurm."""
    partitions = [word for word in options if word.startswith("--partition=")]
    return slurm.needs(launch, has_gpus="gpu" in _ask(["sinfo", "--noheader", "--format=%G", *partitions]))


def command(here: Workspace, job: Job, needed: Needs) -> tuple[str, ...]:
    """Return the command that submits a job."""
    log = Path(job.output).with_suffix(".run") / record.BACKGROUND
    return slurm.sbatch(slurm.Batch(job.folder.name, sys.executable, here.root, log, needed), tuple(job.sbatch or ()))


def submit(here: Workspace, job: Job, needed: Needs) -> str:
    """Submit a job and return its number. Raises SlurmError if Slurm does not take it."""
    Path(job.output).with_suffix(".run").mkdir(parents=True, exist_ok=True)
    return _ask(command(here, job, needed)).strip().partition(";")[0]


def states(found: Iterable[Job]) -> dict[str, str]:
    """Return the state of each submitted job by its number, in Slurm's words, such as `PENDING (Resources)`."""
    numbers = [job.slurm for job in found if job.slurm]
    if not numbers:
        return {}
    try:
        lines = _squeue(tuple(numbers), int(time.monotonic() // _FRESH_S))
    except SlurmError as exc:
        return dict.fromkeys(numbers, exc.message)
    known = dict(line.removesuffix(" (None)").split("|", 1) for line in lines if "|" in line)
    gone = "Slurm no longer has it; `lora queue resume` submits it again"
    return {number: known.get(number, gone) for number in numbers}


@functools.lru_cache(maxsize=1)
def _squeue(_numbers: tuple[str, ...], _moment: int) -> list[str]:
    """Return the user's jobs in Slurm, asked for once in some seconds: a page that is open shows them all the time."""
    return _ask(["squeue", "--noheader", "--format=%i|%T (%r)", "--me"]).splitlines()


def waiting(here: Workspace) -> list[dict[str, str]]:
    """Return the jobs that wait in Slurm and have not begun, for JSON; those that have are runs."""
    found = [job for job in jobs.read(here.queue) if job.slurm and job.state == "waiting"]
    known = states(found)
    return [
        {"name": job.name, "output": job.output, "slurm": job.slurm, "why": known[job.slurm]}
        for job in found
        if job.slurm
    ]


def cancel(number: str) -> None:
    """Cancel a job; one that Slurm has ended already is no error."""
    _ask(["scancel", number])


@contextmanager
def requeued() -> Iterator[None]:
    """Within a batch job, have it queued again if Slurm says that its time is nearly over."""
    number = os.environ.get(_ID)
    if number is None:
        yield
        return
    for signum in _NEARLY_OVER:
        # during a training, the supervisor counts them instead
        signal.signal(signum, _leave)
    try:
        yield
    except (Interrupted, MachineLost) as exc:
        is_over = isinstance(exc, MachineLost) or exc.exit_code - 128 in _NEARLY_OVER
        if is_over and machine() == 0:
            _ask(["scontrol", "requeue", number])
        raise


def is_in_job() -> bool:
    """Return whether this process is part of a batch job."""
    return _ID in os.environ


def fruitless(stopped: Interrupted) -> str | None:
    """Return why a job is not queued again: its time was over again and again before a state was saved."""
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if stopped.has_state or restarts < _MOST_RESTARTS or stopped.exit_code - 128 not in _NEARLY_OVER:
        return None
    return f"Slurm ended it {restarts + 1} times before a state was saved; give it more time with --sbatch=--time=..."


def _leave(signum: int, _frame: FrameType | None) -> None:
    raise Interrupted("stopped before it trained", signum=signum)


def _ask(argv: Iterable[str]) -> str:
    words = list(argv)
    try:
        return proc.run(words, cwd=Path("/"), timeout_s=60).stdout
    except proc.ProcError as exc:
        if exc.completed.returncode == proc.NOT_FOUND:
            raise SlurmError("there is no Slurm on this machine", hint=f"it needs the command {words[0]}") from exc
        why = "; ".join(_BEFORE.sub("", exc.completed.stderr.strip()).splitlines())
        hint = "`sinfo` shows whether Slurm answers, and its partitions"
        raise SlurmError(f"Slurm's `{words[0]}` failed: {why}", hint=hint) from exc
