"""fp16 with a scaler, on the CPU: accelerate alone refuses that (see `zygote`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lora_training.runtime.model import Start
from lora_training.runtime.patches import grad_scaler
from tests.runtime.conftest import CACHED, Trainer, Training, dataset, finite, same

HALF = {"env": {"FP16_ON_CPU": "1", "ACCELERATE_MIXED_PRECISION": "fp16"}}
SETS = ("mixed_precision=fp16", "save_state=true", "save_every_n_steps=3", "max_train_steps=3")
# a loss large enough for the gradient to overflow at a scale of 65536, and not at 1024
LARGE = "v_pred_like_loss=0.2"
HUGE = "v_pred_like_loss=300"


def scaler(training: Training) -> dict[str, Any]:
    """Return the scaler's state after step 3; `_growth_tracker` counts good steps since its last change."""
    import torch

    assert training.code == 0, training.log
    return torch.load(training.folder / "smoke-step00000003-state" / "scaler.pt")


@pytest.mark.upstream
def test_at_upstreams_scale_steps_are_lost_and_at_ours_none_is(train: Trainer, tmp_path: Path) -> None:
    upstreams = scaler(train(tmp_path / "upstream", *SETS, LARGE, **HALF))
    assert upstreams["scale"] < 65536
    ours = scaler(train(tmp_path / "ours", *SETS, LARGE, runtime={"grad-scaler": {}}, **HALF))
    assert (ours["scale"], ours["_growth_tracker"]) == (1024, 3)


@pytest.mark.upstream
def test_every_setting_reaches_the_scaler(train: Trainer, tmp_path: Path) -> None:
    settings = {"init_scale": 4.0, "growth_factor": 3.0, "backoff_factor": 0.25, "growth_interval": 2}
    held = scaler(train(tmp_path, *SETS, runtime={"grad-scaler": settings}, **HALF))
    assert {**held, "scale": 4.0, "init_scale": 4.0} | settings == {**held, "scale": 4.0, "init_scale": 4.0}
    assert (held["scale"], held["_growth_tracker"]) == (12, 1)


@pytest.mark.upstream
def test_guard_and_clipping_leave_a_run_with_a_scaler_as_it_is(train: Trainer, tmp_path: Path) -> None:
    """Overflows are the scaler's business: however few bad steps the guard lets pass, they do not end the run."""
    alone = train(tmp_path / "alone", *SETS, HUGE, **HALF)
    both = {"progress": {}, "nan-guard": {"max_consecutive": 1}, "safe-clip": {}}
    guarded = train(tmp_path / "guarded", *SETS, HUGE, runtime=both, **HALF)
    assert scaler(alone)["scale"] < 65536
    assert scaler(guarded) == scaler(alone)
    assert same(guarded.weights(), alone.weights())
    assert guarded.of("skipped") == []


@pytest.mark.upstream
def test_an_image_that_is_not_finite_is_named_and_the_scaler_skips_its_steps(
    train: Trainer, tmp_path: Path, poisoned: Path
) -> None:
    runtime = {"progress": {}, "nan-guard": {}}
    done = train(tmp_path, *SETS, *CACHED, "max_train_steps=4", runtime=runtime, datasets=dataset(poisoned), **HALF)
    assert done.code == 0, done.log
    assert finite(done.weights())
    skipped = done.of("skipped")
    assert skipped
    assert all(min(poisoned.glob("*.npz")).name.split("_")[0] in " ".join(event["images"]) for event in skipped)
    # it counts the steps since the last one that was skipped, which may have been the first
    assert scaler(done)["_growth_tracker"] < 4


def test_without_fp16_there_is_no_scaler_to_set() -> None:
    said = grad_scaler.PATCH.unneeded(Start(("--mixed_precision", "bf16"), {}), grad_scaler.Settings())
    assert said == "only fp16 has a scaler, and this is bf16"
    assert grad_scaler.PATCH.unneeded(Start((), {"ACCELERATE_MIXED_PRECISION": "fp16"}), grad_scaler.Settings()) is None
