"""Configure the gradient scaler of fp16 training, for which upstream uses PyTorch's defaults.

PyTorch starts at a scale of 65536 and halves it at each overflow. So the first steps of an fp16 LoRA are often skipped,
while their images count as trained. The settings are passed on in accelerate's own `GradScalerKwargs`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

from lora_training.runtime.model import RuntimePatch, Start, Target, limits, wrap_function


@dataclass(frozen=True)
class Settings:
    """The settings of torch.amp.GradScaler."""

    init_scale: float = limits(1024.0, least=1)
    growth_factor: float = limits(2.0, least=1)
    backoff_factor: float = limits(0.5, least=0, most=1)
    growth_interval: int = limits(2000, least=1)


def install(module: ModuleType, settings: Settings) -> None:
    """Build upstream's accelerator with these settings."""
    if module.__name__ != "library.accelerator_setup":
        return

    def build(wrapped: Callable[..., Any], _: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from accelerate import GradScalerKwargs

        handlers = [*(kwargs.pop("kwargs_handlers", None) or ()), GradScalerKwargs(**asdict(settings))]
        return wrapped(*args, kwargs_handlers=handlers, **kwargs)

    wrap_function(module, "Accelerator", build)


def _unneeded(start: Start, _settings: Settings) -> str | None:
    return None if start.mixed_precision == "fp16" else f"only fp16 has a scaler, and this is {start.mixed_precision}"


PATCH = RuntimePatch(
    name="grad-scaler",
    reason="Upstream leaves the scaler of fp16 at PyTorch's scale of 65536, at which a LoRA's first steps overflow.",
    upstream_version="v0.11.1",
    verification="tests/runtime/test_fp16.py",
    removal_condition="upstream has flags for the scaler's settings",
    targets=(
        Target("library.accelerator_setup", "prepare_accelerator", "1eca56dce47db0a5"),
        Target("accelerate.utils.dataclasses", "GradScalerKwargs", "ec6a8c0daf538315"),
    ),
    install=install,
    settings=Settings,
    unneeded=_unneeded,
)
