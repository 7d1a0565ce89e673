from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.conftest import Trainer, same

pytestmark = pytest.mark.upstream


def logged(folder: Path, what: str = "loss/current") -> dict[int, float]:
    """A figure by its step, in what TensorBoard finds in one attempt's logs."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (events,) = folder.rglob("events.out.tfevents.*")
    found = accumulator.EventAccumulator(str(events.parent))
    found.Reload()
    return {each.step: each.value for each in found.Scalars(what)}


def test_a_resumed_run_goes_on_in_tensorboard_where_it_was(train: Trainer, tmp_path: Path) -> None:
    on = {"exact-resume": {}, "progress": {}, "nan-guard": {}}
    sets = ("save_state=true", "save_every_n_steps=3", "log_with=tensorboard")
    whole = train(tmp_path / "whole", *sets, f"logging_dir={tmp_path / 'a'}", runtime=on)
    assert whole.code == 0, whole.log
    state = tmp_path / "whole" / "smoke-step00000003-state"
    resumed = train(
        tmp_path / "on",
        *sets,
        f"logging_dir={tmp_path / 'b'}",
        f"resume={state}",
        "skip_until_initial_step=true",
        runtime=on,
    )
    assert resumed.code == 0, resumed.log
    assert same(resumed.weights(), whole.weights())
    first = logged(tmp_path / "a")
    assert list(first) == [1, 2, 3, 4, 5, 6]
    assert logged(tmp_path / "b") == {step: first[step] for step in (4, 5, 6)}
    average = logged(tmp_path / "a", "loss/average")
    assert logged(tmp_path / "b", "loss/average") == {step: average[step] for step in (4, 5, 6)}
