"""Clip a gradient only if its norm is finite, and after it is unscaled; skip the step otherwise.

PyTorch's clipping divides by the norm, so one value that is not finite makes every value of the gradient NaN or zero,
and the step that follows damages every weight or does nothing. Here the gradient is left as it was, and the optimizer
skips its step. With a scaler, the scaler itself sees the gradient and skips it.
"""

from __future__ import annotations

import math
from typing import Any

from lora_training.runtime import training
from lora_training.runtime.model import NoSettings, RuntimePatch, Start
from lora_training.runtime.run import Watcher


class _SafeClip(Watcher):
    def accelerator_built(self) -> None:
        self.run.accelerator.clip_grad_norm_ = self._clip

    def _clip(self, parameters: Any, max_norm: float, norm_type: float = 2) -> Any:
        """`Accelerator.clip_grad_norm_` that divides by the norm only where it is finite."""
        import torch
        from torch.nn.utils import clip_grads_with_norm_, get_total_norm

        self.run.accelerator.unscale_gradients()
        parameters = list(parameters)
        norm = get_total_norm([each.grad for each in parameters if each.grad is not None], norm_type)
        # with a norm of zero nothing is clipped
        clip_grads_with_norm_(parameters, max_norm, torch.where(norm.isfinite(), norm, torch.zeros_like(norm)))
        return norm

    def allows_step(self, optimizer: Any) -> bool:
        _, norm = self.run.read(optimizer)
        return math.isfinite(norm) or optimizer.scaler is not None


def _unneeded(start: Start, _settings: NoSettings) -> str | None:
    limit = start.value("--max_grad_norm")
    return "max_grad_norm = 0 clips nothing" if limit is not None and float(limit) == 0 else None


PATCH = RuntimePatch(
    name="safe-clip",
    reason="Clipping by a norm that is not finite destroys the whole gradient, and the step is made all the same.",
    upstream_version="v0.11.1",
    verification="tests/runtime/test_fp16.py, tests/runtime/test_safe_clip.py",
    removal_condition="accelerate clips nothing by a norm that is not finite",
    targets=(*training.TARGETS, *training.STEP_TARGETS),
    watcher=lambda _settings: _SafeClip(),
    unneeded=_unneeded,
)
