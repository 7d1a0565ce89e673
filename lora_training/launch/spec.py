"""Describe a training process as data. Pure: reads, starts and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lora_training import proc, shell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lora_training.launch.processes import Processes

# /dev/null is not a folder, so no file can exist below it; the log shows this name
NO_MODULES = "/dev/null/the-modules-of-a-model-are-not-run"
_RUNTIME = "lora_training.runtime"


@dataclass(frozen=True)
class LaunchSpec:
    """A child process to start: its command, the variables added to the environment, and its working folder.

    `secrets` are added to the environment as well, and never printed.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    def shell(self) -> str:
        """Return the command as one POSIX shell line. Secrets are taken from the environment of that shell."""
        settings = [f"{name}={shell.quote(value)}" for name, value in sorted(self.env.items())]
        return f"cd {shell.quote(str(self.cwd))} && {' '.join([*settings, shell.join(self.argv)])}"


def one_process(  # noqa: PLR0913 - independent settings, all but three by keyword
    python: str,
    script: Path,
    flags: Sequence[str],
    *,
    runtime: Mapping[str, str],
    mixed_precision: str,
    cpu_threads: int = 1,
) -> LaunchSpec:
    """Describe one training process, started by `python` with the variables that `accelerate launch` would set.

    `accelerate launch` would import torch in another process first, which takes seconds at each start. `flags` are
    upstream's; `runtime` selects the runtime patches to install (`runtime.bootstrap.environment`). `cpu_threads` is
    accelerate's `--num_cpu_threads_per_process` with accelerate's default: more threads than free cores make small CPU
    operations many times slower.
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
    """Describe the training processes of `processes`; a single one is started as by `one_process`.

    Several are started by `accelerate launch`, each through this project's bootstrap, or by `runtime.ranks`, which uses
    a file store instead of a port.
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
        # `-m` of accelerate would put the current folder on the import path
        argv = (*launcher, *options, "--no_python", *proc.module(_RUNTIME, python), *command)
    return LaunchSpec(argv, env, one.cwd)


def _environment(runtime: Mapping[str, str], mixed_precision: str, cpu_threads: int) -> dict[str, str]:
    return {
        "ACCELERATE_MIXED_PRECISION": mixed_precision,
        "OMP_NUM_THREADS": str(cpu_threads),
        # upstream's log wraps at the terminal's width, which would cut file names
        "COLUMNS": "200",
        # write log lines immediately
        "PYTHONUNBUFFERED": "1",
        **loading(allow_pickle=False),
        **runtime,
    }


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


def _accelerate(processes: Processes, mixed_precision: str, cpu_threads: int) -> list[str]:
    """Return the options of `accelerate launch`, complete, so that its own configuration file is not used."""
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
    # also on CPUs, selected by ACCELERATE_USE_CPU: `--cpu` starts several processes only through MPI
    return ["--multi_gpu", *given]
