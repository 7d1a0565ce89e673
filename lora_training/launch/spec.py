"""What a training child is, as data. Pure: nothing is read, started or written here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lora_training import proc, shell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lora_training.launch.processes import Processes

# below what is no folder, so that nothing can be there; the name is what the log shows
NO_MODULES = "/dev/null/the-modules-of-a-model-are-not-run"
_RUNTIME = "lora_training.runtime"


@dataclass(frozen=True)
class LaunchSpec:
    """A child to start: its command, what it adds to our environment, and its folder.

    `secrets` are added to the environment, too, and never shown.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    def shell(self) -> str:
        """The same as one line that a POSIX shell takes. Secrets are left to the environment that it is run in."""
        settings = [f"{name}={shell.quote(value)}" for name, value in sorted(self.env.items())]
        return f"cd {shell.quote(str(self.cwd))} && {' '.join([*settings, shell.join(self.argv)])}"


def one_process(  # noqa: PLR0913 - each is a different thing, and all are named
    python: str,
    script: Path,
    flags: Sequence[str],
    *,
    runtime: Mapping[str, str],
    mixed_precision: str,
    cpu_threads: int = 1,
) -> LaunchSpec:
    """One training process, started by `python` itself with the variables that `accelerate launch` would set.

    `accelerate launch` would import torch once more in a process of its own, which costs seconds at each start.
    `flags` are upstream's; `runtime` says which runtime patches to install (`runtime.bootstrap.environment`).
    `cpu_threads` is accelerate's `--num_cpu_threads_per_process` with accelerate's default: more threads than free
    cores make small CPU operations many times slower, not faster.
    """
    env = _environment(runtime, mixed_precision, cpu_threads)
    return LaunchSpec((*proc.module(_RUNTIME, python), str(script), *flags), env, script.parent)


def several(  # noqa: PLR0913 - as above
    python: str,
    script: Path,
    flags: Sequence[str],
    *,
    processes: Processes,
    runtime: Mapping[str, str],
    mixed_precision: str,
    cpu_threads: int = 1,
) -> LaunchSpec:
    """Training processes as `processes` says; one on one machine is started as `one_process` has it.

    Several are started by `accelerate launch`, each through our bootstrap, or by `runtime.ranks`, and then meet in a
    file instead of at a port.
    """
    one = one_process(python, script, flags, runtime=runtime, mixed_precision=mixed_precision, cpu_threads=cpu_threads)
    env = dict(one.env)
    if processes.cpu and processes.count > 1:
        env["ACCELERATE_USE_CPU"] = "1"
    if processes.gpu_ids is not None:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, processes.gpu_ids))
    command = (str(script), *flags)
    if processes.count == 1:
        argv = one.argv
    elif processes.file_store:
        argv = (*proc.module(f"{_RUNTIME}.ranks", python), str(processes.count), *command)
    else:
        options = _accelerate(processes, mixed_precision, cpu_threads)
        launcher = proc.module("accelerate.commands.launch", python)
        # its own `-m` would put the current folder on the import path
        argv = (*launcher, *options, "--no_python", *proc.module(_RUNTIME, python), *command)
    return LaunchSpec(argv, env, one.cwd)


def _environment(runtime: Mapping[str, str], mixed_precision: str, cpu_threads: int) -> dict[str, str]:
    return {
        "ACCELERATE_MIXED_PRECISION": mixed_precision,
        "OMP_NUM_THREADS": str(cpu_threads),
        # upstream's log wraps at the terminal's width, in the middle of the names that matter
        "COLUMNS": "200",
        # lines must reach the log when they are written
        "PYTHONUNBUFFERED": "1",
        **loading(allow_pickle=False),
        **runtime,
    }


def loading(*, allow_pickle: bool) -> dict[str, str]:
    """The variables that keep files of weights from running code in the training process.

    torch then reads a pickle's tensors and nothing else, whatever its caller asks for; a model's own modules, which
    diffusers would copy into its cache and import from there, have no folder to be copied to.
    """
    return {
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "0" if allow_pickle else "1",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1" if allow_pickle else "0",
        "HF_MODULES_CACHE": NO_MODULES,
    }


def _accelerate(processes: Processes, mixed_precision: str, cpu_threads: int) -> list[str]:
    """The options of `accelerate launch`: all that it would else ask its own configuration file for."""
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
    # also on CPUs, where ACCELERATE_USE_CPU says so: its `--cpu` starts several processes by MPI only
    return ["--multi_gpu", *given]
