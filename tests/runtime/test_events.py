from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lora_training.runtime import events
from tests.runtime.conftest import Trainer, Training, same

SAVING = ("save_every_n_steps=4", "save_state=true")


@pytest.fixture(scope="module")
def watched(train: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Training:
    return train(tmp_path_factory.mktemp("watched"), *SAVING, runtime={"progress": {}})


@pytest.mark.upstream
def test_a_run_tells_of_its_start_each_step_what_it_writes_and_its_end(watched: Training) -> None:
    assert watched.code == 0, watched.log
    kinds = [event["event"] for event in watched.events]
    assert kinds == ["start", *["step"] * 3, "checkpoint", "state", *["step"] * 3, "state", "checkpoint", "end"]
    assert watched.of("start")[0] | {"total_steps": 6, "epochs": 2, "initial_step": 0} == watched.of("start")[0]
    assert [event["step"] for event in watched.of("step")] == [1, 2, 3, 4, 5, 6]
    assert [event["epoch"] for event in watched.of("step")] == [1, 1, 1, 1, 2, 2]
    assert [event["step"] for event in watched.of("checkpoint")] == [4, 6]


@pytest.mark.upstream
def test_what_it_says_of_a_step_is_what_upstream_shows(watched: Training) -> None:
    last = watched.of("step")[-1]
    assert f"avr_loss={last['avr_loss']:.3g}" in watched.log
    assert len(last["lr"]) == 4
    assert last["lr"][0] == pytest.approx(1e-3)
    assert last["seconds"] > 0
    assert last["memory_mb"] > 100


@pytest.mark.upstream
def test_every_path_it_names_is_there(watched: Training) -> None:
    paths = [Path(event["path"]) for event in watched.events if "path" in event]
    assert len(paths) == 4
    assert all(path.exists() for path in paths)
    assert watched.folder / "smoke-step00000004-state" in paths


@pytest.mark.upstream
def test_to_be_watched_changes_nothing(train: Trainer, tmp_path: Path, watched: Training) -> None:
    alone = train(tmp_path, *SAVING)
    assert same(watched.weights(), alone.weights())
    assert alone.events == []


def test_without_a_listener_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    events.emit("step", step=1)
    assert list(tmp_path.iterdir()) == []


def test_a_number_is_a_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setenv(events.VARIABLE, str(writing))
    events.emit("step", step=1, loss=float("nan"), lr=[1e-3, float("inf")])
    line = json.loads(os.read(reading, 1000))
    assert (line["event"], line["step"], line["loss"], line["lr"]) == ("step", 1, None, [1e-3, None])


def test_a_listener_that_is_gone_does_not_end_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(events.VARIABLE, str(tmp_path / "no" / "such" / "folder"))
    events.emit("step", step=1)
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setenv(events.VARIABLE, str(writing))
    events.emit("step", step=2)
