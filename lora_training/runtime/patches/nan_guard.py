"""Skip a step whose loss or gradient is not finite, on every rank alike.

Upstream makes such a step, and the weights stay NaN from then on. Here the optimizer, its state, the schedule and the
running average do not see it. The batch's images are reported. After `max_consecutive` such steps in a row the run
saves, since its weights are those of its last good step, and gives up with exit code 6.

A rank whose own loss is not finite makes its gradient NaN before upstream reduces the gradients, so the reduction tells
every rank. The decision has to be on the host before the optimizer's step. Upstream reads the loss after the step; here
it is read before, together with the gradient's norm, and stays on the host. So the patch adds no synchronization with
the device.

With fp16's scaler, a gradient that is not finite means that the scale is too large: the scaler skips that step itself.
As many more such steps in a row are allowed as the scale can be halved.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from lora_training.errors import TrainingError
from lora_training.runtime import events, training
from lora_training.runtime.model import RuntimePatch, Target, limits, wrap_function
from lora_training.runtime.run import Run, Watcher

# The key of the image paths in a batch.
_IMAGES = "lora_images"


@dataclass(frozen=True)
class Settings:
    """`max_consecutive`: the number of bad steps in a row that ends the run."""

    max_consecutive: int = limits(10, least=1)


class _NanGuard(Watcher):
    """Decides each step by its losses and the norm of its gradient."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._images: list[str] = []
        self._bad_before = False
        self._in_a_row = 0
        self._limit = 0
        self._skipped = 0
        self._end: TrainingError | None = None

    def batch_given(self, batch: dict[str, Any]) -> None:
        self._images += batch.get(_IMAGES, [])

    def gradients_made(self, network: Any) -> None:
        if self.run.accelerator.num_processes > 1 or self.run.accelerator.scaler is not None:
            self._mark(network)

    def _mark(self, network: Any) -> None:
        """Make this rank's gradient NaN if one of its losses is not finite, without waiting for the device."""
        gradient = next((each.grad for each in network.parameters() if each.grad is not None), None)
        if gradient is not None:
            bad = ~self.run.batch_loss.detach().isfinite() | self._bad_before
            gradient.masked_fill_(bad.to(gradient.device), math.nan)

    def allows_step(self, optimizer: Any) -> bool:
        loss, norm = self.run.read(optimizer)
        good = math.isfinite(norm) and (self.run.accelerator.num_processes > 1 or self._finite(loss))
        if not good:
            self._note(loss, norm)
        self._in_a_row = 0 if good else self._in_a_row + 1
        self._images, self._bad_before = [], False
        return good or self.run.accelerator.scaler is not None

    def _finite(self, loss: float) -> bool:
        return math.isfinite(loss) and not self._bad_before

    def keeps_loss(self, loss: float) -> bool:
        if not self.run.accelerator.sync_gradients:
            self._bad_before |= not math.isfinite(loss)
        return math.isfinite(loss)

    def _note(self, loss: float, norm: float) -> None:
        self._skipped += 1
        scaler = self.run.accelerator.scaler
        if self._in_a_row == 0:
            self._limit = self._settings.max_consecutive + (_halvings(scaler) if scaler else 0)
        if scaler and self._finite(loss):
            # an ordinary overflow
            return
        step, rank, in_a_row = self.run.step + 1, self.run.accelerator.process_index, self._in_a_row + 1
        events.emit("skipped", step=step, images=self._images, loss=loss, in_a_row=in_a_row, rank=rank)
        what = f"its loss is {loss}, the norm of its gradient {norm}"
        sys.stderr.write(f"lora: step {step} skipped, {what}; its images: {', '.join(self._images)}\n")

    def weights_moved(self) -> None:
        if not self._in_a_row or self._in_a_row < self._limit:
            return
        saves = _weights_are_finite(self.run)
        what = f"nan-guard: {self._in_a_row} steps in a row had a loss or a gradient that is not finite"
        hint = f"the state of the last good step is saved as that of step {self.run.step}" if saves else None
        self._end = TrainingError(what, hint=hint)
        self.run.leave(self._end, save=saves)

    def left(self) -> None:
        if self._end and self.run.accelerator.is_main_process:
            events.emit("failed", kind="not-finite", step=self.run.step, message=self._end.message)

    def ended(self) -> None:
        if self._skipped and self.run.accelerator.is_main_process:
            sys.stderr.write(f"lora: {self._skipped} steps were skipped, not finite\n")


def _halvings(scaler: Any) -> int:
    """Return how often the scaler can halve its scale before it is below 1."""
    return max(0, math.ceil(math.log2(max(1.0, scaler.get_scale()))))


def _weights_are_finite(run: Run) -> bool:
    groups = [group for optimizer in run.optimizers for group in optimizer.param_groups]
    return all(bool(each.isfinite().all()) for group in groups for each in group["params"])


def install(module: ModuleType, _settings: Settings) -> None:
    """Add the image paths to each batch."""
    if module.__name__ == "library.dataset":
        wrap_function(module, "BaseDataset.__getitem__", _name_images)


def _name_images(wrapped: Callable[..., Any], dataset: Any, args: tuple[int], kwargs: dict[str, Any]) -> Any:
    example = wrapped(*args, **kwargs)
    index = dataset.buckets_indices[args[0]]
    first = index.batch_index * index.bucket_batch_size
    keys = dataset.bucket_manager.buckets[index.bucket_index][first : first + index.bucket_batch_size]
    example[_IMAGES] = [dataset.image_data[key].absolute_path for key in keys]
    return example


PATCH = RuntimePatch(
    name="nan-guard",
    reason="One loss or gradient that is not finite makes every weight NaN for good, and upstream trains on and saves.",
    upstream_version="v0.11.1",
    verification="tests/runtime/test_nan_guard.py",
    removal_condition="upstream skips such steps, and says which images they had",
    targets=(
        *training.TARGETS,
        *training.STEP_TARGETS,
        Target("library.dataset", "BaseDataset.__getitem__", "cc6945aee6ab27ed"),
        Target("train_network", "NetworkTrainer.all_reduce_network", "7157f7d8c597445d"),
        Target("train_network", "NetworkTrainer.process_batch", "4b04383f4d87bf11"),
    ),
    install=install,
    watcher=_NanGuard,
    settings=Settings,
    on_by_default=True,
)
