"""Report the training's progress to the supervisor, as the events of `runtime.events`.

Every number is one that upstream already has on the host, so the patch never waits for a device.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_training.runtime import events, training
from lora_training.runtime.model import NoSettings, RuntimePatch, Start
from lora_training.runtime.run import Run, Watcher


class _Progress(Watcher):
    def __init__(self) -> None:
        self._since = 0.0

    def loop_begins(self) -> None:
        self._since = time.perf_counter()
        total = self.run.args.max_train_steps
        _emit(self.run, "start", total_steps=total, epochs=self.run.epochs, initial_step=self.run.initial_step)

    def step_ends(self) -> None:
        before, self._since = self._since, time.perf_counter()
        _emit(
            self.run,
            "step",
            step=self.run.step,
            epoch=self.run.epoch,
            loss=self.run.loss,
            avr_loss=self.run.average,
            lr=_rates(self.run),
            seconds=round(self._since - before, 6),
            memory_mb=_memory_mb(self.run.accelerator.device.type),
        )

    def saved(self, path: Path, _again: Callable[[str], None]) -> None:
        _emit(self.run, "checkpoint", path=str(path), step=self.run.step)

    def state_saved(self, path: Path) -> None:
        _emit(self.run, "state", path=str(path), step=self.run.step)

    def ended(self) -> None:
        _emit(self.run, "end", step=self.run.step)


def _emit(run: Run, kind: str, **fields: Any) -> None:
    # each machine has a supervisor of its own
    if run.accelerator.is_local_main_process:
        events.emit(kind, **fields)


def _rates(run: Run) -> list[float]:
    """Return the learning rates, one per parameter group, without those on a device: reading them would wait for it."""
    schedulers = run.accelerator._schedulers
    rates = schedulers[0].get_last_lr() if schedulers else []
    return [rate for rate in rates if isinstance(rate, (int, float))]


def _memory_mb(device: str) -> float:
    if device == "cuda":
        torch = sys.modules["torch"]
        return float(round(torch.cuda.max_memory_allocated() / 2**20, 1))
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)


def _unneeded(start: Start, _settings: NoSettings) -> str | None:
    return None if start.environ.get(events.VARIABLE) else "no supervisor reads events"


PATCH = RuntimePatch(
    name="progress",
    reason="A supervisor has to know how far a training is, and upstream says it on a progress bar for people only.",
    upstream_version="v0.11.1",
    verification="tests/runtime/test_events.py",
    removal_condition="upstream reports its progress in a form that is made for programs",
    targets=training.TARGETS,
    watcher=lambda _settings: _Progress(),
    on_by_default=True,
    unneeded=_unneeded,
)
