"""Keep diffusers from importing bitsandbytes and peft at each start.

Where bitsandbytes is installed, diffusers imports it for quantized models, and with peft for LoRAs of its own; upstream
uses neither. It imports PyTorch's compiler: seconds that only an 8-bit optimizer needs. For one of those, upstream
imports it itself.
"""

from __future__ import annotations

from types import ModuleType

from lora_training.runtime.model import NoSettings, RuntimePatch, Target


def install(module: ModuleType, _settings: NoSettings) -> None:
    """Have diffusers take both for packages that are not installed."""
    vars(module).update(_bitsandbytes_available=False, _peft_available=False)


PATCH = RuntimePatch(
    name="lazy-bitsandbytes",
    reason="Each start imports PyTorch's compiler, seconds of work, because bitsandbytes is installed, used or not.",
    upstream_version="v0.11.1",
    verification="tests/runtime/test_lazy_bitsandbytes.py",
    removal_condition="bitsandbytes, or what imports it, imports the other's compiler only when it is used",
    targets=(
        Target("diffusers.utils.import_utils", "is_bitsandbytes_available", "17aef6e0a551dd3c"),
        Target("diffusers.utils.import_utils", "is_peft_available", "494b429c37f943fc"),
    ),
    install=install,
    on_by_default=True,
)
