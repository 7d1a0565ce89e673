"""Keep an exponential moving average of the network, and save it beside every checkpoint as `<name>-ema`.

The average is diffusers' EMAModel, with the same names for its settings; it is kept in float32, whatever the network's
type. It is part of a saved state (`ema.pt`), so a resumed run continues it. If the state has no average, a new one
starts from that state's weights. A skipped step does not update it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora_training.runtime import training
from lora_training.runtime.model import RuntimePatch, Target, limits
from lora_training.runtime.run import Watcher

STATE_FILE = "ema.pt"
_SUFFIX = "-ema"


@dataclass(frozen=True)
class Settings:
    """The settings of diffusers' EMAModel, and `every`: the number of optimizer steps between two updates.

    Update t (from 1) uses the decay d = min(decay, ramp(s)) with s = t - update_after_step - 1, and at least
    `min_decay`; while s <= 0 the average is the network itself. The ramp is (1 + s) / (10 + s), or, with
    `use_ema_warmup`, 1 - (1 + s / inv_gamma) ** -power.
    """

    decay: float = limits(0.999, least=0, most=1)
    min_decay: float = limits(0.0, least=0, most=1)
    update_after_step: int = limits(0, least=0)
    use_ema_warmup: bool = False
    inv_gamma: float = limits(1.0, least=1e-6)
    power: float = limits(2 / 3, least=0)
    every: int = limits(1, least=1)


class _Ema(Watcher):
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._average: Any = None
        self._resumed: Path | None = None

    def accelerator_built(self) -> None:
        self.run.accelerator.register_save_state_pre_hook(self._save_state)
        self.run.accelerator.register_load_state_pre_hook(self._load_state)

    def _save_state(self, _models: Any, _weights: Any, folder: str) -> None:
        import torch

        torch.save(self._average.state_dict(), Path(folder) / STATE_FILE)

    def _load_state(self, _models: Any, folder: str) -> None:
        # the network itself is loaded after this
        self._resumed = Path(folder)

    def loop_begins(self) -> None:
        self._average = self._new()
        if self._resumed is None:
            return
        path = self._resumed / STATE_FILE
        if path.exists():
            self._load(path)
        else:
            sys.stderr.write(f"lora: {self._resumed} has no average of the network, so it starts here\n")

    def _new(self) -> Any:
        import torch
        from diffusers.training_utils import EMAModel

        options = asdict(self._settings)
        del options["every"]
        average = EMAModel(self._parameters(), foreach=True, **options)
        average.to(dtype=torch.float32)
        return average

    def _load(self, path: Path) -> None:
        """Load the average and its update count; the settings stay those of this run."""
        import torch

        held = torch.load(path, map_location=self.run.accelerator.device, weights_only=True)
        self._average.load_state_dict({name: held[name] for name in ("shadow_params", "optimization_step")})

    def _parameters(self) -> list[Any]:
        return list(self.run.network.parameters())

    def weights_moved(self) -> None:
        if self.run.step % self._settings.every == 0 and not any(each.step_was_skipped for each in self.run.optimizers):
            self._average.step(self._parameters())

    def saved(self, path: Path, again: Callable[[str], None]) -> None:
        parameters = self._parameters()
        self._average.store(parameters)
        self._average.copy_to(parameters)
        try:
            again(_beside(path).name)
        finally:
            self._average.restore(parameters)

    def removed(self, path: Path) -> None:
        _beside(path).unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}{_SUFFIX}{path.suffix}")


PATCH = RuntimePatch(
    name="ema",
    reason="Upstream keeps no average of the weights, which is smoother than any one step's.",
    upstream_version="v0.11.1",
    verification="tests/runtime/test_ema.py",
    removal_condition="upstream keeps an average of the network, saves it and resumes it",
    targets=(
        *training.TARGETS,
        *training.STEP_TARGETS,
        Target("train_network", "NetworkTrainer.post_process_network", "6779abda7b9f716d"),
        Target("diffusers.training_utils", "EMAModel", "eec2d1bed1f799af"),
    ),
    watcher=_Ema,
    settings=Settings,
)
