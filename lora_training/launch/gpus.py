"""Count and describe the GPUs without importing torch."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from lora_training import proc
from lora_training.errors import ConfigError

_PATIENCE_S = 20.0
_UUID = re.compile(r"\(UUID: ([^)]+)\)")


def usable(environ: Mapping[str, str], count: Callable[[], int]) -> int:
    """Return how many GPUs a training may use: `count()` of this machine, limited by CUDA_VISIBLE_DEVICES.

    As in torch, that list ends at its first entry that is invalid or the number of no GPU. A training forced onto the
    CPU (ACCELERATE_USE_CPU) has none.
    """
    if environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes"}:
        return 0
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count()
    listed = [entry.strip() for entry in visible.split(",")]
    real = list(takewhile(lambda entry: entry and not entry.startswith("-"), listed))
    there = count() if real else 0
    return min(there, len(list(takewhile(lambda entry: not entry.isdecimal() or int(entry) < there, real))))


def chosen(ids: tuple[int | str, ...], environ: Mapping[str, str], uuids: Callable[[], list[str]]) -> tuple[str, ...]:
    """Return what CUDA_VISIBLE_DEVICES must be for these GPUs. Numbers count those of the variable, if it is set.

    Raises ConfigError for a number that the variable does not have, and for what is the beginning of none of `uuids()`.
    """
    visible = list(filter(None, map(str.strip, environ.get("CUDA_VISIBLE_DEVICES", "").split(","))))
    known = uuids() if any(isinstance(each, str) for each in ids) else visible
    for each in ids:
        if isinstance(each, int):
            is_there = not visible or each < len(visible)
        else:
            is_there = any(uuid.startswith(each) for uuid in known)
        if not is_there:
            hint = f"there is {', '.join(known)}" if known else "`nvidia-smi -L` lists none"
            raise ConfigError(f"there is no GPU {each} on this machine", hint=hint)
    return tuple(visible[each] if isinstance(each, int) and visible else str(each) for each in ids)


def order(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variable by which CUDA numbers GPUs as `nvidia-smi` does, and not the fastest first.

    Where the user has chosen GPUs for CUDA already, its numbers keep their meaning.
    """
    is_users = not environ.keys().isdisjoint({"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"})
    return {} if is_users else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def has_one(environ: Mapping[str, str]) -> bool:
    """Whether there is a GPU of any make to train on; True also if that cannot be found out.

    torch, which takes seconds to import, is asked only if the NVIDIA driver reports no GPU.
    """
    there = installed()
    return usable(environ, lambda: there or sys.maxsize) > 0 and (there > 0 or _torch_finds_one())


@functools.cache
def _torch_finds_one() -> bool:
    found = "torch.cuda.is_available() or torch.accelerator.is_available()"
    return _python(f"import torch; print({found})").stdout.strip() != str(False)


@functools.cache
def loads_xformers() -> bool:
    """Whether the compiled part of xformers loads with the installed torch, as tried in a child process."""
    return _python("import xformers._cpp_lib as lib; lib._register_extensions()").returncode == 0


def _python(code: str) -> proc.Completed:
    return proc.run([sys.executable, "-c", code], cwd=Path("/"), allowed=proc.ANY_CODE)


@dataclass(frozen=True)
class Gpu:
    """A GPU as described by its driver. `memory_mb` is its total memory; None if it shares the machine's."""

    name: str
    memory_mb: int | None
    driver: str


def described() -> list[Gpu]:
    """Return the NVIDIA GPUs that the driver reports."""
    lines = _nvidia_smi("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
    rows = ([field.strip() for field in line.rsplit(",", 2)] for line in lines if "," in line)
    return [Gpu(name, int(memory) if memory.isdecimal() else None, driver) for name, memory, driver in rows]


def installed() -> int:
    """Return the number of NVIDIA GPUs that the driver reports."""
    return sum(line.startswith("GPU ") for line in _nvidia_smi("-L"))


def uuids() -> list[str]:
    """Return the UUIDs of the NVIDIA GPUs, and of their MIG devices, that the driver reports."""
    return [match[1] for line in _nvidia_smi("-L") if (match := _UUID.search(line))]


def _nvidia_smi(*options: str) -> list[str]:
    """Return the lines that `nvidia-smi` prints; none without a driver, or if it does not answer."""
    try:
        return proc.run(
            ["nvidia-smi", *options], cwd=Path("/"), allowed=proc.ANY_CODE, timeout_s=_PATIENCE_S
        ).stdout.splitlines()
    except (proc.ProcError, OSError):
        return []
