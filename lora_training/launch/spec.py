"""A training process as data: `[launch]` resolved for this machine, then command, environment and folder. Pure."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_training import proc, shell
from lora_training.config.tables import LaunchTable
from lora_training.errors import ConfigError

# /dev/null is not a folder, so no file can exist below it; the log shows this name
NO_MODULES = "/dev/null/the-modules-of-a-model-are-not-run"
_RUNTIME = "lora_training.runtime"
# read by the runtime patch `ranks`
DISTRIBUTED_BACKEND = "LORA_DISTRIBUTED_BACKEND"
# of GPUs, more than a machine has
ANY_NUMBER = 1 << 10
# Set by the launchers for each rank. Those of another launcher, such as a cluster's, would have a single process wait
# for ranks that never come.
_RANKS = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"}
# accelerate's own default
_PORT = 29500


@dataclass(frozen=True)
class LaunchSpec:
    """A child process to start: its command, the variables added to the environment, and its working folder.

    `secrets` are added to the environment as well, and never printed.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    def environment(self, around: Mapping[str, str]) -> dict[str, str]:
        """Return the process's whole environment, where that of this process is `around`."""
        kept = {name: value for name, value in around.items() if name not in _RANKS}
        return {**kept, **self.env, **self.secrets}

    def shell(self) -> str:
        """Return the command as one POSIX shell line. Secrets are taken from the environment of that shell."""
        settings = [f"{name}={shell.quote(value)}" for name, value in sorted(self.env.items())]
        return f"cd {shell.quote(str(self.cwd))} && {' '.join([*settings, shell.join(self.argv)])}"


@dataclass(frozen=True)
class Processes:
    """The processes of a training. `count` is the total over all machines; `cpu` is set on a machine without a GPU.

    `ip` and `port` are the rendezvous address of the machines; `gpu_ids` None leaves the choice to the launcher.
    """

    count: int = 1
    gpu_ids: tuple[int | str, ...] | None = None
    cpu: bool = False
    file_store: bool = False
    machines: int = 1
    machine_rank: int = 0
    ip: str | None = None
    port: int | None = None
    rdzv_backend: str = "static"
    distributed_backend: str | None = None


_ONE = Processes()


def build(
    python: str,
    script: Path,
    flags: Sequence[str],
    *,
    runtime: Mapping[str, str],
    mixed_precision: str,
    processes: Processes = _ONE,
    cpu_threads: int = 1,
) -> LaunchSpec:
    """Describe the training processes, with upstream's `flags`.

    A single one is started by `python` with the variables that `accelerate launch` would set: that would import torch
    in another process first, which takes seconds at each start. Several are started by `accelerate launch`, each
    through this project's bootstrap, or by `runtime.ranks`, which uses a file store instead of a port. `runtime`
    selects the runtime patches to install (`runtime.bootstrap.environment`). `cpu_threads` is accelerate's
    `--num_cpu_threads_per_process` with its default: more threads than free cores slow small CPU operations down.
    """
    env = {
        "ACCELERATE_MIXED_PRECISION": mixed_precision,
        "OMP_NUM_THREADS": str(cpu_threads),
        # upstream's log wraps at the terminal's width, which would cut file names
        "COLUMNS": "200",
        # write log lines immediately
        "PYTHONUNBUFFERED": "1",
        **loading(allow_pickle=False),
        **runtime,
    }
    env |= _devices(processes)
    if processes.count == 1:
        launcher = proc.module(_RUNTIME, python)
    elif processes.file_store:
        launcher = (*proc.module(f"{_RUNTIME}.ranks", python), str(processes.count))
    else:
        launcher = _accelerate(python, processes, mixed_precision, cpu_threads)
    return LaunchSpec((*launcher, str(script), *flags), env, script.parent)


def _devices(processes: Processes) -> dict[str, str]:
    """Return the variables that name the devices of several processes, and how these talk to each other."""
    env = {}
    if processes.cpu and processes.count > 1:
        env["ACCELERATE_USE_CPU"] = "1"
    if processes.distributed_backend:
        env[DISTRIBUTED_BACKEND] = processes.distributed_backend
    if processes.gpu_ids is not None:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, processes.gpu_ids))
    return env


def tool(
    python: str, script: Path, words: Sequence[str], *, tree: Path, cwd: Path, runtime: Mapping[str, str]
) -> LaunchSpec:
    """Describe a process that runs a script of `tree` other than a training; some import modules from its top."""
    path = os.pathsep.join([str(tree), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **loading(allow_pickle=False), **runtime}
    return LaunchSpec((*proc.module(_RUNTIME, python), str(script), *words), env, cwd)


def loading(*, allow_pickle: bool) -> dict[str, str]:
    """Return the variables that keep weight files from running code in the training process.

    torch then loads only the tensors of a pickle, whatever its caller requests. A model's own modules, which diffusers
    would copy into its cache and import, have no folder to be copied to.
    """
    return {
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "0" if allow_pickle else "1",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1" if allow_pickle else "0",
        "HF_MODULES_CACHE": NO_MODULES,
    }


def _accelerate(python: str, processes: Processes, mixed_precision: str, cpu_threads: int) -> tuple[str, ...]:
    """Return `accelerate launch` with all its options, so that its own configuration file is not used."""
    options = {
        "num_processes": processes.count,
        "num_machines": processes.machines,
        "machine_rank": processes.machine_rank,
        "gpu_ids": "all" if processes.gpu_ids is None else ",".join(map(str, processes.gpu_ids)),
        "mixed_precision": mixed_precision,
        "num_cpu_threads_per_process": cpu_threads,
        "dynamo_backend": "no",
        "rdzv_backend": processes.rdzv_backend,
        "main_process_ip": processes.ip,
        "main_process_port": processes.port,
    }
    given = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    # `--multi_gpu` also on CPUs, selected by ACCELERATE_USE_CPU: `--cpu` starts several processes only through MPI;
    # `--no_python`, since `-m` of accelerate would put the current folder on the import path
    launcher = (*proc.module("accelerate.commands.launch", python), "--multi_gpu", *given, "--no_python")
    return (*launcher, *proc.module(_RUNTIME, python))


def resolve(wanted: LaunchTable, gpus: Callable[[], int]) -> Processes:
    """Resolve `[launch]` on a machine with `gpus()` GPUs; `gpus` is called only where it matters.

    Raises ConfigError if more GPUs are requested than exist, and for settings that exclude each other.
    """
    machines = wanted.num_machines or 1
    if wanted.num_processes in (None, 1) and wanted.gpu_ids is None and machines == 1:
        return Processes()
    present = gpus()
    here = len(wanted.gpu_ids) if wanted.gpu_ids else max(1, present)
    count = here * machines if wanted.num_processes in (None, "auto") else int(wanted.num_processes or 1)
    _check(wanted, count, machines, here, present)
    return Processes(
        count,
        wanted.gpu_ids,
        present == 0,
        wanted.backend == "filestore",
        machines,
        wanted.machine_rank or 0,
        wanted.main_process_ip,
        wanted.main_process_port or (_PORT if machines > 1 else None),
        wanted.rdzv_backend or "static",
        wanted.distributed_backend,
    )


def _check(wanted: LaunchTable, count: int, machines: int, here: int, present: int) -> None:
    missing = [str(each) for each in wanted.gpu_ids or () if isinstance(each, int) and each >= present]
    if missing:
        raise ConfigError(
            f"[launch] gpu_ids: there is no GPU {', '.join(missing)} on this machine, which has {present}",
            hint=f"they are counted from 0; num_processes = {max(1, present)} takes what there is",
        )
    if wanted.distributed_backend == "nccl" and not present:
        raise ConfigError(
            '[launch] distributed_backend = "nccl" needs GPUs, and this machine has none to train on',
            hint='leave it out, or write "gloo"',
        )
    if count % machines:
        raise ConfigError(
            f"[launch] num_processes = {count} cannot be shared out evenly over {machines} machines",
            hint="num_processes counts those of all machines together",
        )
    if present and count // machines > here:
        raise ConfigError(
            f"[launch] num_processes asks for {count // machines} GPUs on this machine, and there are {here}",
            hint='num_processes = "auto" takes what there is',
        )
    if machines > 1 and wanted.backend == "filestore":
        raise ConfigError(
            "[launch] backend = filestore is for one machine",
            hint="leave backend out: accelerate's launcher joins several machines",
        )
    if machines > 1 and wanted.main_process_ip is None:
        raise ConfigError(
            "[launch] num_machines needs main_process_ip",
            hint="the address of the machine whose machine_rank is 0, the same in every machine's configuration",
        )
