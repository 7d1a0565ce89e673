"""Checks of torch, torchvision and xformers, imported in a child process, and of torch's access to the GPUs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lora_training import proc
from lora_training.app.doctor.machine import ok, problem, warn
from lora_training.launch.gpus import Gpu
from lora_training.problems import Problem

_TIMEOUT_S = 300
# The oldest driver for each major version of CUDA, which runs all its minor versions (NVIDIA, CUDA Toolkit release
# notes, "CUDA Toolkit and Minimum Required Driver Version for CUDA Minor Version Compatibility", Linux).
_DRIVERS = {11: (450, 80), 12: (525, 60), 13: (580,)}
_MEND = "`make setup` installs the pinned packages"
_PROBE = """
import importlib, json, sys
found = {"errors": {}}
for name in ("torch", "torchvision", "xformers"):
    try:
        module = importlib.import_module(name)
        found[name] = getattr(module, "__version__", "unknown")
    except BaseException as exc:
        found["errors"][name] = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
if "torch" in found:
    cuda = sys.modules["torch"].cuda
    found["cuda"] = sys.modules["torch"].version.cuda
    try:
        found["gpus"] = [cuda.get_device_name(n) for n in range(cuda.device_count())] if cuda.is_available() else []
        for number in range(len(found["gpus"])):
            (sys.modules["torch"].ones(2, device=f"cuda:{number}") + 1).sum().item()
    except BaseException as exc:
        found["errors"]["cuda"] = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
print("\\n" + json.dumps(found))
"""


def probe(python: str = sys.executable) -> dict[str, Any]:
    """Import them; return their versions, `cuda` (of torch's build), `gpus` (names), and `errors` by package name."""
    try:
        # in the root folder, so that no `torch` in the current folder is imported
        done = proc.run([python, "-c", _PROBE], cwd=Path("/"), allowed=proc.ANY_CODE, timeout_s=_TIMEOUT_S)
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except proc.ProcError as exc:
        return {"errors": {"torch": (exc.hint or exc.message).splitlines()[-1]}}
    except (OSError, ValueError, IndexError):
        return {"errors": {"torch": "the process that imports it ends without output"}}


def findings(found: dict[str, Any], gpus: Sequence[Gpu]) -> Iterator[Problem]:
    """Compare the result of `probe` with the GPUs that the driver reports."""
    errors = found["errors"]
    yield from (_imported(name, found, errors) for name in ("torch", "torchvision", "xformers"))
    if "torch" in found:
        yield from _cuda(found, errors, gpus)


def _imported(name: str, found: dict[str, Any], errors: dict[str, str]) -> Problem:
    if name not in errors:
        built = f", for CUDA {found['cuda']}" if name == "torch" and found.get("cuda") else ""
        return ok(name, f"{found.get(name, 'not asked')}{built}")
    text = f"cannot be imported: {errors[name]}"
    # upstream uses it only if a flag asks for it
    return warn(name, text, _MEND) if name == "xformers" else problem(name, text, _MEND)


def _cuda(found: dict[str, Any], errors: dict[str, str], gpus: Sequence[Gpu]) -> Iterator[Problem]:
    if not gpus:
        text = "none that a driver knows; trainings run on the CPU"
        yield warn("gpu", text, "enough for the smoke run; in a container: docker run --gpus all ...")
        return
    for gpu in gpus:
        memory = f", {gpu.memory_mb} MB" if gpu.memory_mb else ""
        yield ok("gpu", f"{gpu.name}{memory}, driver {gpu.driver}")
    if "cuda" in errors or not found.get("gpus"):
        yield _unusable(found.get("cuda"), gpus[0].driver, errors.get("cuda"))


def _unusable(cuda: str | None, driver: str, error: str | None) -> Problem:
    if cuda is None:
        return problem("gpu", "torch is a build for CPUs only", _MEND)
    if is_too_old(driver, cuda):
        least = ".".join(map(str, _DRIVERS[int(cuda.partition(".")[0])]))
        return problem(
            "gpu", f"driver {driver} is too old for torch's CUDA {cuda}", f"it takes driver {least} or newer"
        )
    why = f": {error}" if error else ""
    return problem("gpu", f"torch cannot use it{why}", "is CUDA_VISIBLE_DEVICES set? does `nvidia-smi` work?")


def is_too_old(driver: str, cuda: str) -> bool:
    """Return whether a driver is too old for programs built for that CUDA; False if unknown."""
    try:
        least = _DRIVERS.get(int(cuda.partition(".")[0]), ())
        return tuple(map(int, driver.split(".")))[: len(least)] < least
    except ValueError:
        return False
