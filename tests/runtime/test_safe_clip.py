from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lora_training.runtime.patches import safe_clip
from tests.runtime.conftest import CACHED, Trainer, Training, dataset, finite, same

CLIP = {"progress": {}, "safe-clip": {}}


@pytest.mark.upstream
def test_a_norm_that_is_not_finite_skips_the_step(train: Trainer, tmp_path: Path, poisoned: Path) -> None:
    """Upstream's weights are NaN after these images: see test_nan_guard."""
    done = train(tmp_path, *CACHED, "max_train_steps=4", runtime=CLIP, datasets=dataset(poisoned))
    assert done.code == 0, done.log
    assert finite(done.weights())


@pytest.mark.upstream
def test_where_nothing_is_wrong_it_clips_as_before(train: Trainer, tmp_path: Path, plain: Training) -> None:
    assert same(train(tmp_path / "usual", runtime=CLIP).weights(), plain.weights())
    tight = train(tmp_path / "tight", "max_grad_norm=1e-3", runtime=CLIP)
    assert same(tight.weights(), train(tmp_path / "alone", "max_grad_norm=1e-3").weights())
    assert not same(tight.weights(), plain.weights())


def test_a_bad_value_leaves_the_others_as_they_are() -> None:
    torch = pytest.importorskip("torch")
    accelerate = pytest.importorskip("accelerate")
    params = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]

    def clipped(clip: object) -> list[list[float]]:
        params[0].grad, params[1].grad = torch.tensor([3.0, float("inf")]), torch.tensor([4.0, 5.0])
        clip(params, 1.0)
        return [each.grad.tolist() for each in params]

    accelerator = accelerate.Accelerator(cpu=True)
    assert clipped(accelerator.clip_grad_norm_)[1] == [0, 0]
    watcher = safe_clip._SafeClip()
    watcher.run = SimpleNamespace(accelerator=accelerator)
    watcher.accelerator_built()
    assert clipped(accelerator.clip_grad_norm_) == [[3.0, float("inf")], [4.0, 5.0]]
