from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lora_training.runtime.patches.ema import Settings
from tests.runtime.conftest import CACHED, Trainer, Training, dataset, finite, same

EVERY_STEP = ("save_every_n_steps=1", "save_last_n_steps=4")
EMA = {"decay": 0.6, "update_after_step": 1, "every": 2}


def averages(weights: list[dict[str, Any]], settings: Settings) -> list[dict[str, Any]]:
    """The closed form: the average after each step, of the weights after each step."""
    result, current, updates = [], weights[0], 0
    for step, each in enumerate(weights[1:], start=1):
        if step % settings.every == 0:
            updates += 1
            since = max(0, updates - settings.update_after_step - 1)
            ramp = 1 - (1 + since / settings.inv_gamma) ** -settings.power
            decay = min(settings.decay, ramp if settings.use_ema_warmup else (1 + since) / (10 + since))
            decay = max(decay, settings.min_decay) if since > 0 else 0
            current = {name: decay * current[name].double() + (1 - decay) * each[name].double() for name in each}
        result.append(current)
    return result


@pytest.fixture(scope="module")
def averaged(train: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Training:
    done = train(tmp_path_factory.mktemp("ema"), "save_every_n_steps=1", runtime={"ema": EMA})
    assert done.code == 0, done.log
    return done


def assert_near(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    assert all((found[name].double() - wanted[name]).abs().max() < 1e-7 for name in found)


@pytest.mark.upstream
def test_it_is_the_closed_form_of_the_weights_of_every_step(averaged: Training) -> None:
    steps = [averaged.weights(f"smoke-step{step:08d}.safetensors") for step in range(1, 6)]
    steps.append(averaged.weights())
    found = [averaged.weights(f"smoke-step{step:08d}-ema.safetensors") for step in range(1, 6)]
    found.append(averaged.weights("smoke-ema.safetensors"))
    # the network before its first step is in no file; the first two updates that count do not need it
    wanted = averages([steps[0], *steps], Settings(**EMA))
    for step in (2, 3, 4, 5, 6):
        assert_near(found[step - 1], wanted[step - 1])
    assert not same(found[-1], steps[-1])


@pytest.mark.upstream
def test_to_be_averaged_changes_nothing(averaged: Training, plain: Training) -> None:
    assert same(averaged.weights(), plain.weights())


@pytest.mark.upstream
def test_a_resumed_run_goes_on_with_the_average_exactly(train: Trainer, tmp_path: Path) -> None:
    sets = ("save_every_n_steps=3", "save_state=true")
    runtime = {"ema": {"decay": 0.5, "use_ema_warmup": True}, "exact-resume": {}}
    whole = train(tmp_path / "whole", *sets, runtime=runtime)
    state = whole.folder / "smoke-step00000003-state"
    assert (state / "ema.pt").exists(), whole.log
    resumed = train(tmp_path / "resumed", *sets, f"resume={state}", "skip_until_initial_step=true", runtime=runtime)
    assert resumed.code == 0, resumed.log
    assert same(resumed.weights(), whole.weights())
    assert same(resumed.weights("smoke-ema.safetensors"), whole.weights("smoke-ema.safetensors"))


@pytest.mark.upstream
def test_a_state_without_an_average_starts_one_and_says_so(train: Trainer, tmp_path: Path) -> None:
    first = train(tmp_path / "first", "save_every_n_steps=3", "save_state=true")
    state = first.folder / "smoke-step00000003-state"
    done = train(tmp_path / "second", f"resume={state}", "skip_until_initial_step=true", runtime={"ema": EMA})
    assert done.code == 0, done.log
    assert "has no average of the network" in done.log
    assert (done.folder / "smoke-ema.safetensors").exists()


@pytest.mark.upstream
def test_it_goes_with_its_checkpoint_and_skipped_steps_do_not_reach_it(
    train: Trainer, tmp_path: Path, poisoned: Path
) -> None:
    runtime = {"ema": {}, "nan-guard": {}}
    done = train(tmp_path, *CACHED, *EVERY_STEP, runtime=runtime, datasets=dataset(poisoned))
    assert done.code == 0, done.log
    assert finite(done.weights("smoke-ema.safetensors"))
    kept = {path.name.removesuffix(".safetensors") for path in tmp_path.glob("*.safetensors")}
    assert kept == {each.removesuffix("-ema") for each in kept} | {f"{each.removesuffix('-ema')}-ema" for each in kept}
    assert "smoke-step00000001-ema" not in kept
