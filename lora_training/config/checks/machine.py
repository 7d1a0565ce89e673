"""What a machine without a GPU cannot train: each was tried at the pin, on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lora_training.config.checks.view import View
    from lora_training.config.model import Problem, Severity

# FLUX's deprecated `split_mode` stands for 18 blocks where `blocks_to_swap` is not given
_SWAPS = ("blocks_to_swap", "split_mode")
# Their VAE is diffusers', which asks for CUDA where xformers is on. Their U-Net norms groups, which no CPU does with
# weights of eight bits. The other families have neither, and FLUX trains with fp8_base on a CPU.
_UNETS = ("train_network", "sdxl_train_network")


def problems(view: View, has_gpu: Callable[[], bool], *, trains: bool) -> Iterator[Problem]:
    """What the machine cannot do. An error only where it is about to train: a check may run on another machine."""
    severity: Severity = "error" if trains else "warning"
    for key, words, hint in _needs(view):
        if not has_gpu():
            message = f"{words} needs a GPU, and this machine has none to train on"
            yield view.problem(message, key, hint=hint, severity=severity)
    for key in left_out(view, has_gpu):
        yield view.problem(sentence(key), key, severity="warning")


def left_out(view: View, has_gpu: Callable[[], bool]) -> tuple[str, ...]:
    """The flags that a training on this machine is not given."""
    asked = tuple(key for key in _SWAPS if view.given(key) and view.on(key))
    return () if not asked or has_gpu() else asked


def sentence(key: str) -> str:
    """Why a flag is left out."""
    why = "upstream's block swap would write over the model's weights"
    return f"`{key}` is left out, since this machine has no GPU: on a CPU, {why}"


def _needs(view: View) -> Iterator[tuple[str, str, str]]:
    """The key of each option that ends a training on a CPU, the option in words, and what to do without it."""
    if view.value("mixed_precision") == "fp16":
        yield "mixed_precision", 'mixed_precision = "fp16"', 'on a CPU, mixed_precision = "no" or "bf16" trains'
    if view.schema.script not in _UNETS:
        return
    if view.on("xformers"):
        yield "xformers", "`xformers`", "on a CPU, sdpa = true does the same"
    for key in ("fp8_base", "fp8_base_unet"):
        if view.on(key):
            yield key, f"`{key}` of this family", "leave it out on a CPU"
