from __future__ import annotations

from pathlib import Path

import pytest

from lora_training.supervise.attempt import Ended
from lora_training.supervise.failures import classify
from tests.runtime.conftest import CACHED, Trainer, Training, copied_images, dataset, finite, poison, same, start_ranks

GUARD = {"progress": {}, "nan-guard": {}}


def culprit(images: Path) -> str:
    return min(images.glob("*.npz")).name.split("_")[0]


@pytest.mark.upstream
def test_without_it_one_image_makes_every_weight_nan_for_good(train: Trainer, tmp_path: Path, poisoned: Path) -> None:
    done = train(tmp_path, *CACHED, runtime={"progress": {}}, datasets=dataset(poisoned))
    assert done.code == 0, done.log
    assert not finite(done.weights())
    assert done.of("step")[-1]["avr_loss"] is None


@pytest.mark.upstream
@pytest.mark.parametrize("more", [(), ("max_grad_norm=0",), ("gradient_accumulation_steps=2",)], ids=str)
def test_with_it_the_run_ends_with_a_finite_lora_and_names_the_image(
    train: Trainer, tmp_path: Path, poisoned: Path, more: tuple[str, ...]
) -> None:
    done = train(tmp_path, *CACHED, *more, "max_train_steps=4", runtime=GUARD, datasets=dataset(poisoned))
    assert done.code == 0, done.log
    assert finite(done.weights())
    skipped = done.of("skipped")
    assert 1 <= len(skipped) <= 4
    assert all(culprit(poisoned) in " ".join(event["images"]) for event in skipped)
    assert f"step {skipped[0]['step']} skipped, its loss is nan, the norm of its gradient nan" in done.log
    assert culprit(poisoned) in done.log
    assert done.of("step")[-1]["avr_loss"] is not None


@pytest.mark.upstream
def test_too_many_in_a_row_end_the_run_with_its_last_good_weights(
    train: Trainer, tmp_path: Path, poisoned: Path
) -> None:
    everything = copied_images(tmp_path / "images")
    datasets = dataset(everything)
    train(tmp_path / "cache", "max_train_steps=1", *CACHED, datasets=datasets)
    for cache in everything.glob("*.npz"):
        poison(cache)
    guard = GUARD | {"nan-guard": {"max_consecutive": 3}}
    sets = (*CACHED, "max_train_steps=50", "save_every_n_steps=2", "save_last_n_steps=0")
    done = train(tmp_path / "out", *sets, runtime=guard, datasets=datasets)
    assert done.code == 6
    assert "error: nan-guard: 3 steps in a row" in done.log
    assert "Traceback" not in done.log
    assert done.events[-1] | {"event": "failed", "kind": "not-finite", "step": 3} == done.events[-1]
    # nor is an earlier LoRA removed before its time
    assert all(finite(done.weights(f"smoke-step0000000{step}.safetensors")) for step in (2, 3))
    assert (done.folder / "smoke-step00000003-state" / "model.safetensors").exists()
    assert not (done.folder / "smoke.safetensors").exists()
    assert classify(Ended(6, tuple(done.log.splitlines()[-25:]))).kind == "not-finite"
    banner = next(line for line in done.log.splitlines() if "runtime patch nan-guard" in line)
    assert classify(Ended(1, (banner,))).kind != "not-finite"


@pytest.mark.upstream
def test_weights_that_are_bad_already_are_not_saved(train: Trainer, tmp_path: Path, poisoned: Path) -> None:
    bad = train(tmp_path / "bad", *CACHED, "max_train_steps=8", datasets=dataset(poisoned))
    guard = GUARD | {"nan-guard": {"max_consecutive": 2}}
    done = train(tmp_path / "out", f"network_weights={bad.folder / 'smoke.safetensors'}", runtime=guard)
    assert done.code == 6
    assert sorted(path.suffix for path in done.folder.iterdir()) == [".json", ".jsonl", ".txt"]


@pytest.mark.upstream
@pytest.mark.parametrize("more", [(), ("max_grad_norm=0",)], ids=str)
def test_where_nothing_is_wrong_it_changes_nothing(
    train: Trainer, tmp_path: Path, plain: Training, more: tuple[str, ...]
) -> None:
    guarded = train(tmp_path / "on", *more, runtime=GUARD)
    alone = train(tmp_path / "off", *more) if more else plain
    assert same(guarded.weights(), alone.weights())
    assert guarded.of("skipped") == []


OTHER_SCRIPT = """
import train_network
from library import args as args_util

class OwnTrainer(train_network.NetworkTrainer):
    def sample_images(self, *args):
        pass
    def on_step_start(self, *args, **kwargs):
        pass
    def all_reduce_network(self, accelerator, network):
        pass
    def process_batch(self, *args, **kwargs):
        return super().process_batch(*args, **kwargs) * 2

if __name__ == "__main__":
    parser = train_network.setup_parser()
    args = parser.parse_args()
    args_util.verify_command_line_training_args(args)
    OwnTrainer().train(args)
"""


@pytest.mark.upstream
def test_a_script_with_a_trainer_of_its_own_is_guarded_too(train: Trainer, tmp_path: Path, poisoned: Path) -> None:
    """As every script but `train_network` has: its overridden methods run, and are watched."""
    done = train(tmp_path, *CACHED, runtime=GUARD, datasets=dataset(poisoned), script=OTHER_SCRIPT)
    assert done.code == 0, done.log
    assert finite(done.weights())
    assert [event["step"] for event in done.of("step")] == [1, 2, 3, 4, 5, 6]
    assert done.of("skipped")
    # twice upstream's loss, as its own class has it
    assert max(event["loss"] or 0 for event in done.of("step")) > 1.7


@pytest.mark.upstream
def test_every_rank_skips_the_same_steps(train: Trainer, tmp_path: Path, poisoned: Path) -> None:
    ranks = start_ranks(train, tmp_path, 2, *CACHED, "max_train_steps=4", runtime=GUARD, datasets=dataset(poisoned))
    assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].log + ranks[1].log
    assert finite(ranks[0].weights())
    steps = [{event["step"] for event in ranks[0].of("skipped") if event["rank"] == rank} for rank in (0, 1)]
    assert steps[0] == steps[1] != set()
    culprits = [event for event in ranks[0].of("skipped") if event["loss"] is None]
    assert culprits
    assert all(culprit(poisoned) in " ".join(event["images"]) for event in culprits)
