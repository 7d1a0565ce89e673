"""The machine that will train, and the options that cannot train without a GPU: each was tried on a CPU at the pin."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from lora_training.config.checks.view import View
from lora_training.config.model import Config
from lora_training.config.schema import Schema
from lora_training.problems import Problem, Severity

FilesCheck = Callable[[Config, Schema], Iterable[Problem]]
# `split_mode`, which FLUX deprecates, swaps 18 blocks if `blocks_to_swap` is not given
_SWAPS = ("blocks_to_swap", "split_mode")
# Their VAE is from diffusers, which requires CUDA with xformers. Their U-Nets use group norm, which has no CPU kernel
# for 8-bit weights. Neither holds for the other families; FLUX trains with fp8_base on a CPU.
_SDPA = "sdpa = true and xformers = false"
_UNETS = ("train_network", "sdxl_train_network")


@dataclass(frozen=True)
class Machine:
    """Properties of the machine that will train. None means unknown, and the checks that need it are skipped.

    `runtime` has the names of the available runtime patches; `installed` tells whether a package is installed;
    `settings` returns the problems with the settings in `[runtime]`, by patch; `files` checks the files of a
    configuration; `has_gpu` tells whether there is a GPU to train on, and `loads_xformers` whether xformers' kernels
    load. `trains` is set if the training is about to start on this machine.
    """

    runtime: Collection[str] | None = None
    installed: Callable[[str], bool] | None = None
    settings: Callable[[Mapping[str, Any]], Mapping[str, Iterable[Any]]] | None = None
    files: FilesCheck | None = None
    has_gpu: Callable[[], bool] | None = None
    loads_xformers: Callable[[], bool] = lambda: True
    trains: bool = False


def installed_here() -> Callable[[str], bool] | None:
    """Return a test for packages installed in this environment; None if it lacks torch, so that it cannot train."""
    if find_spec("torch") is None:
        return None
    return lambda package: find_spec(package) is not None


def problems(view: View, machine: Machine) -> Iterator[Problem]:
    """Yield what this machine cannot do, as errors only if it is about to train: a check may run on another machine."""
    has_gpu = machine.has_gpu
    if has_gpu is None:
        return
    severity: Severity = "error" if machine.trains else "warning"
    if view.on("xformers") and has_gpu() and not machine.loads_xformers():
        message = "`xformers`: its kernels do not load with the installed torch"
        yield view.problem(message, "xformers", hint=f"{_SDPA} does the same", severity=severity)
    for key, words, hint in _needs(view):
        if not has_gpu():
            message = f"{words} needs a GPU, and this machine has none to train on"
            yield view.problem(message, key, hint=hint, severity=severity)
    for key in left_out(view, has_gpu):
        yield view.problem(sentence(key), key, severity="warning")


def left_out(view: View, has_gpu: Callable[[], bool]) -> tuple[str, ...]:
    """Return the flags that are not passed on when training on this machine."""
    asked = tuple(key for key in _SWAPS if view.given(key) and view.on(key))
    return () if not asked or has_gpu() else asked


def sentence(key: str) -> str:
    """Return a sentence that says why a flag is left out."""
    why = "upstream's block swap would write over the model's weights"
    return f"`{key}` is left out, since this machine has no GPU: on a CPU, {why}"


def _needs(view: View) -> Iterator[tuple[str, str, str]]:
    """Yield options that fail on a CPU: the key, the option in words, and a hint."""
    if view.value("mixed_precision") == "fp16":
        yield "mixed_precision", 'mixed_precision = "fp16"', 'on a CPU, mixed_precision = "no" or "bf16" trains'
    if view.schema.script not in _UNETS:
        return
    if view.on("xformers"):
        yield "xformers", "`xformers`", f"{_SDPA} does the same on a CPU"
    for key in ("fp8_base", "fp8_base_unet"):
        if view.on(key):
            yield key, f"`{key}` of this family", "leave it out on a CPU"
