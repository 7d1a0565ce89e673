"""Let upstream's BLIP captioning run with the installed packages.

It imports fairscale for gradient checkpointing, which captioning does not use, and its text decoder has no `generate`
with transformers 4.50 and later, in which models that generate say so by a base class.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

from lora_training.runtime.model import NoSettings, RuntimePatch, Target

_CHECKPOINTING = "fairscale.nn.checkpoint.checkpoint_activations"


def _prepare() -> None:
    """Put a stand-in in the place of fairscale's module, where it is not installed."""
    if importlib.util.find_spec("fairscale") is None:
        module = sys.modules[_CHECKPOINTING] = ModuleType(_CHECKPOINTING)
        vars(module)["checkpoint_wrapper"] = _refuse


def _refuse(_module: Any) -> Any:
    raise ImportError("gradient checkpointing in BLIP needs fairscale, which is not installed")


def install(module: ModuleType, _settings: NoSettings) -> None:
    """Give the text decoder what transformers takes for granted now."""
    if module.__name__ != "blip.med":
        return
    from transformers import GenerationMixin

    decoder = module.BertLMHeadModel
    decoder.__bases__ = (*decoder.__bases__, GenerationMixin)


PATCH = RuntimePatch(
    name="blip",
    reason="Captioning with BLIP needs fairscale, which is unmaintained, and fails at the first image even with it.",
    upstream_version="v0.11.1",
    verification="tests/dataset/test_captioning.py, tests/runtime/test_blip.py",
    removal_condition="upstream's make_captions.py runs with the installed transformers and without fairscale",
    targets=(
        Target("blip.vit", "Block.__init__", "1719c728251622f5"),
        Target("blip.med", "BertLMHeadModel", "9c9f20efbffe1e79"),
    ),
    install=install,
    prepare=_prepare,
)
