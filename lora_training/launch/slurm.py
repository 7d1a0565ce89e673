"""A training as a Slurm batch job: the options of `sbatch` and the script. Pure: starts and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_training import proc, shell
from lora_training.config.tables import LaunchTable
from lora_training.errors import ConfigError

# How long before its end Slurm tells a job so, in seconds: enough for a long step and for saving a large model's state.
_WARNING_S = 300


@dataclass(frozen=True)
class Needs:
    """The resources that a training asks for on each of its machines. `gpus` is 0 on a cluster without GPUs."""

    machines: int
    gpus: int
    threads: int


def needs(launch: LaunchTable, *, has_gpus: bool) -> Needs:
    """Return what `[launch]` asks for. Raises ConfigError for what Slurm decides itself."""
    if launch.num_processes == "auto" or launch.gpu_ids:
        raise ConfigError(
            "Slurm gives a training as many GPUs as it asks for, and chooses them itself",
            hint="in [launch], write num_processes as a number, and leave gpu_ids out",
        )
    machines = launch.num_machines or 1
    each = max(1, int(launch.num_processes or 1) // machines)
    return Needs(machines, each if has_gpus else 0, each * (launch.num_cpu_threads_per_process or 1))


@dataclass(frozen=True)
class Batch:
    """A job of the queue as a batch job: its name there, the folder to work in, and where its output goes."""

    job: str
    python: str
    root: Path
    log: Path
    needs: Needs


def sbatch(batch: Batch, options: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command that submits the job; `options` are the user's for `sbatch`, which override these.

    The script is one process, `lora` itself, or `srun` that starts it on each of several nodes: it is told of the end
    of its time by SIGUSR1, saves the state and has the job queued again. Slurm does that itself after a preemption or
    the failure of a node.
    """
    # a machine that leaves early must not end the one that still saves
    several = "srun --ntasks-per-node=1 --kill-on-bad-exit=0 " if batch.needs.machines > 1 else ""
    asked = batch.needs
    gpus = (f"--gpus-per-node={asked.gpus}",) if asked.gpus else ()
    return (
        "sbatch",
        "--parsable",
        f"--job-name=lora-{batch.job}",
        f"--nodes={asked.machines}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={asked.threads}",
        *gpus,
        "--requeue",
        f"--signal=B:USR1@{_WARNING_S}",
        # a `%` would begin a pattern
        f"--output={str(batch.log).replace('%', '%%')}",
        "--open-mode=append",
        f"--chdir={batch.root}",
        *options,
        f"--wrap=exec {several}{shell.join([*proc.module('lora_training', batch.python), 'queue', 'work', batch.job])}",
    )
