"""Replace the deprecated `torch.cuda.amp` by its equivalents in `torch.amp`, which do not warn at each call.

`torch.cuda.amp.autocast`, `GradScaler`, `custom_fwd` and `custom_bwd` are deprecated since PyTorch 2.4: they warn and
then do the same as their equivalents with the device "cuda".
"""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import Any

from lora_training.runtime.model import NoSettings, RuntimePatch, Target


def install(module: ModuleType, _settings: NoSettings) -> None:
    """Replace the names in the module, and in the package if it has already imported them."""
    torch = sys.modules["torch"]
    package = sys.modules["torch.cuda.amp"]
    for name, replacement in _equivalents(torch.amp, torch.float16).items():
        for each in (module, package):
            if name in vars(each):
                vars(each)[name] = replacement


def _equivalents(amp: Any, half: Any) -> dict[str, Any]:
    class autocast(amp.autocast_mode.autocast):  # type: ignore[misc]  # noqa: N801 - torch's name
        """`torch.amp.autocast("cuda", ...)` with fp16 as the default, as in `torch.cuda.amp`."""

        def __init__(self, enabled: bool = True, dtype: Any = half, cache_enabled: bool = True) -> None:  # noqa: FBT001, FBT002 - torch's
            super().__init__("cuda", enabled=enabled, dtype=dtype, cache_enabled=cache_enabled)

    class GradScaler(amp.GradScaler):  # type: ignore[misc]
        """`torch.amp.GradScaler("cuda", ...)`."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__("cuda", *args, **kwargs)

    custom = {name: functools.partial(getattr(amp, name), device_type="cuda") for name in ("custom_fwd", "custom_bwd")}
    return {"autocast": autocast, "GradScaler": GradScaler, **custom}


PATCH = RuntimePatch(
    name="amp-api",
    reason="Code that calls torch.cuda.amp fills the log with warnings, and stops working when PyTorch drops it.",
    upstream_version="v0.11.1, torch 2.10.0",
    verification="tests/runtime/test_amp_api.py",
    removal_condition="neither upstream nor a package that it imports calls torch.cuda.amp",
    targets=(
        Target("torch.cuda.amp.autocast_mode", "autocast", "56d014e57c967643"),
        Target("torch.cuda.amp.autocast_mode", "custom_fwd", "e9ddd5103b4d73b5"),
        Target("torch.cuda.amp.autocast_mode", "custom_bwd", "0833914134c7687e"),
        Target("torch.cuda.amp.grad_scaler", "GradScaler", "f06e77847d9f8a73"),
    ),
    install=install,
)
