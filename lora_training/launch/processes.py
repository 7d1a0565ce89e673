"""Resolve `[launch]` to the number of processes and their devices on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_training.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lora_training.config.model import Launch


# accelerate's own default
_PORT = 29500


@dataclass(frozen=True)
class Processes:
    """The processes of a training. `count` is the total over all machines; `cpu` is set on a machine without a GPU.

    `ip` and `port` are the rendezvous address of the machines; `gpu_ids` None leaves the choice to the launcher.
    """

    count: int = 1
    gpu_ids: tuple[int, ...] | None = None
    cpu: bool = False
    file_store: bool = False
    machines: int = 1
    machine_rank: int = 0
    ip: str | None = None
    port: int | None = None
    rdzv_backend: str = "static"


def resolve(wanted: Launch, gpus: Callable[[], int]) -> Processes:
    """Resolve `[launch]` on a machine with `gpus()` GPUs; `gpus` is called only where it matters.

    Raises ConfigError if more GPUs are requested than exist, and for settings that exclude each other.
    """
    machines = wanted.num_machines or 1
    if wanted.num_processes in (None, 1) and wanted.gpu_ids is None and machines == 1:
        return Processes()
    there = gpus()
    _have_gpus(wanted.gpu_ids, there)
    here = len(wanted.gpu_ids) if wanted.gpu_ids else max(1, there)
    count = here * machines if wanted.num_processes in (None, "auto") else int(wanted.num_processes or 1)
    _fit(count, machines, here if there else None, wanted)
    return Processes(
        count,
        wanted.gpu_ids,
        there == 0,
        wanted.backend == "filestore",
        machines,
        wanted.machine_rank or 0,
        wanted.main_process_ip,
        wanted.main_process_port or (_PORT if machines > 1 else None),
        wanted.rdzv_backend or "static",
    )


def _have_gpus(ids: tuple[int, ...] | None, there: int) -> None:
    missing = [str(each) for each in ids or () if each >= there]
    if missing:
        raise ConfigError(
            f"[launch] gpu_ids: there is no GPU {', '.join(missing)} on this machine, which has {there}",
            hint=f"they are counted from 0; num_processes = {max(1, there)} takes what there is",
        )


def _fit(count: int, machines: int, gpus_here: int | None, wanted: Launch) -> None:
    if count % machines:
        raise ConfigError(
            f"[launch] num_processes = {count} cannot be shared out evenly over {machines} machines",
            hint="num_processes counts those of all machines together",
        )
    if gpus_here is not None and count // machines > gpus_here:
        raise ConfigError(
            f"[launch] num_processes asks for {count // machines} GPUs on this machine, and there are {gpus_here}",
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
