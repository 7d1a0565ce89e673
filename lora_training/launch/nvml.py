"""The figures of NVIDIA's GPUs, by their driver's library. Run as a program it prints them, since a driver may hang."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from lora_training import proc

_PATIENCE_S = 8.0
_GB = 10**9


def read(patience: float = _PATIENCE_S) -> tuple[list[dict[str, Any]], str | None]:
    """Return the figures of each GPU, and why there are none; a figure that its driver does not have is None.

    A driver that has not answered after `patience` seconds is given up.
    """
    argv = proc.module("lora_training.launch.nvml")
    # in a session of its own: a Ctrl-C here is none of its business
    child = subprocess.Popen(
        argv,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        found = json.loads(child.communicate(timeout=patience)[0])
    except subprocess.TimeoutExpired:
        # not waited for: a process inside of a driver that hangs cannot be killed either
        child.kill()
        return [], "the NVIDIA driver does not answer"
    except ValueError:
        return [], f"the NVIDIA driver cannot be asked (code {child.returncode})"
    return found["gpus"], found["why"]


def _ask() -> dict[str, Any]:
    try:
        import pynvml
    except ModuleNotFoundError:
        return {"gpus": [], "why": "the package nvidia-ml-py is not installed"}
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as exc:
        return {"gpus": [], "why": f"no NVIDIA driver: {exc}"}
    gpus = [_gpu(pynvml, index) for index in range(count)]
    return {"gpus": gpus, "why": None if gpus else "the NVIDIA driver has no GPU"}


def _gpu(nvml: Any, index: int) -> dict[str, Any]:
    def ask(question: Callable[..., Any], *args: Any) -> Any:
        try:
            return question(*args)
        except (nvml.NVMLError, AttributeError, UnicodeDecodeError):
            # `[N/A]` in nvidia-smi
            return None

    handle = ask(nvml.nvmlDeviceGetHandleByIndex, index)
    memory = ask(nvml.nvmlDeviceGetMemoryInfo, handle)
    milliwatts = ask(nvml.nvmlDeviceGetPowerUsage, handle)
    usage = ask(nvml.nvmlDeviceGetUtilizationRates, handle)
    used, total = (_gb(getattr(memory, name, None)) for name in ("used", "total"))
    return {
        "index": index,
        "uuid": _text(ask(nvml.nvmlDeviceGetUUID, handle)),
        "name": _text(ask(nvml.nvmlDeviceGetName, handle)),
        "memoryTotal": total,
        "memoryUsed": used,
        "memoryPercent": round(100 * used / total, 1) if used is not None and total else None,
        "utilization": getattr(usage, "gpu", None),
        "temperature": ask(nvml.nvmlDeviceGetTemperature, handle, 0),
        "power": None if milliwatts is None else round(milliwatts / 1000, 1),
        "processes": [
            {"pid": each.pid, "memoryUsed": _gb(each.usedGpuMemory)}
            for each in ask(nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ()
        ],
    }


def _text(value: Any) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _gb(size: int | None) -> float | None:
    return None if size is None else round(size / _GB, 2)


if __name__ == "__main__":
    os.write(sys.__stdout__.fileno() if sys.__stdout__ else 1, json.dumps(_ask()).encode())
