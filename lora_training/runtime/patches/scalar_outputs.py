"""Keep HunyuanImage's text encoder outputs in memory as arrays, of which upstream can make tensors.

One of them is a single boolean for each caption. Upstream takes it out of its array as a scalar, which
`torch.FloatTensor` refuses with NumPy 2.3 or newer. Outputs that were read from a file are arrays already.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from lora_training.runtime.model import NoSettings, RuntimePatch, Target, wrap_function


def install(module: ModuleType, _settings: NoSettings) -> None:
    """Wrap the method that computes the outputs of a batch of captions."""
    wrap_function(module, "HunyuanImageTextEncoderOutputsCachingStrategy.cache_batch_outputs", _around)


def _around(wrapped: Any, _: Any, args: Any, kwargs: Any) -> None:
    import numpy as np

    wrapped(*args, **kwargs)
    for info in args[-1]:
        if info.text_encoder_outputs is not None:
            info.text_encoder_outputs = tuple(map(np.asarray, info.text_encoder_outputs))


PATCH = RuntimePatch(
    name="scalar-outputs",
    reason="With NumPy 2.3, HunyuanImage cannot train on text encoder outputs that are cached in memory.",
    upstream_version="v0.11.1",
    verification="tests/families/test_families.py",
    removal_condition="upstream makes tensors of NumPy's scalars in none_or_stack_elements",
    targets=(
        Target(
            "library.strategy_hunyuan_image",
            "HunyuanImageTextEncoderOutputsCachingStrategy.cache_batch_outputs",
            "09d21f35d3e88086",
        ),
    ),
    install=install,
    on_by_default=True,
    scripts=("hunyuan_image_train_network",),
)
