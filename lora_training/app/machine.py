"""This machine: its GPUs as one document, and processor, memory and disk."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from lora_training.launch import nvml
from lora_training.supervise import record, run_index
from lora_training.workspace import Workspace

_GB = 10**9


def gpus(here: Workspace) -> dict[str, Any]:
    """Return all GPUs and their sums: memory in GB, utilization as the mean, temperature as the maximum.

    The order is that of the driver, whatever CUDA_VISIBLE_DEVICES says; `uuid` identifies a GPU. What the driver does
    not tell is None, and `why` says why there is no GPU.
    """
    found, why = nvml.read()
    _name_runs(here, found)
    total, used = (_sum(found, name) for name in ("memoryTotal", "memoryUsed"))
    loads = [gpu["utilization"] for gpu in found if gpu["utilization"] is not None]
    names = Counter(gpu["name"] or "GPU" for gpu in found)
    return {
        "name": ", ".join(f"{count}x {name}" if count > 1 else name for name, count in names.items()) or None,
        "memoryTotal": total,
        "memoryUsed": used,
        "memoryPercent": round(100 * used / total, 1) if total and used is not None else None,
        "utilization": round(sum(loads) / len(loads), 1) if loads else None,
        "temperature": max((gpu["temperature"] for gpu in found if gpu["temperature"] is not None), default=None),
        "numGpus": len(found),
        "gpus": found,
        "why": why,
    }


def _sum(found: list[dict[str, Any]], name: str) -> float | None:
    """Return the sum of a figure; None if a GPU lacks it, since the sum of the others would be wrong."""
    values = [gpu[name] for gpu in found]
    return round(sum(values), 2) if values and None not in values else None


def _name_runs(here: Workspace, found: list[dict[str, Any]]) -> None:
    """Add to each process on a GPU the name and id of the run that it belongs to."""
    runs = {run.pid: (folder, run) for folder, run in run_index.runs(here) if record.is_alive(folder)}
    for process in (each for gpu in found for each in gpu["processes"]):
        folder, run = next((runs[pid] for pid in _ancestors(process["pid"]) if pid in runs), (None, None))
        process["run"] = run and run.name
        process["id"] = folder and run_index.ident(folder)


def _ancestors(pid: int) -> list[int]:
    """Return a process and those that started it, as far as they can be seen."""
    found = [pid]
    while (parent := _parent(found[-1])) > 1 and parent not in found:
        found.append(parent)
    return found


def _parent(pid: int) -> int:
    try:
        # the name in it may have spaces and brackets
        return int(
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
        )
    except (OSError, ValueError, IndexError):
        return 0


def others(here: Workspace) -> dict[str, Any]:
    """Return the load of the processors, the memory and the disk, in GB."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    memory = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    disk = shutil.disk_usage(here.root)
    total = memory["MemTotal"]
    return {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "memoryTotal": round(total / _GB, 1),
        "memoryUsed": round((total - memory["MemAvailable"]) / _GB, 1),
        "diskTotal": round(disk.total / _GB, 1),
        "diskUsed": round((disk.total - disk.free) / _GB, 1),
    }
