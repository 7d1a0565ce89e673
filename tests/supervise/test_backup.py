"""What an earlier run left is put aside under another name, with its record, and nothing of it is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_training import manifest
from lora_training.errors import LoraError
from lora_training.supervise import backup, record

LEFT = (
    "cats.safetensors",
    "cats-000002.safetensors",
    "cats-step00000010.safetensors",
    "cats-step00000010-ema.safetensors",
)
STATES = ("cats-step00000010-state", "cats-step00000020-state.partial")
OTHERS = ("cats2.safetensors", "cats-and-dogs.safetensors", "cats.txt", "dogs-step00000010-state")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    for name in (*LEFT, *OTHERS):
        (tmp_path / name).write_text(name, encoding="utf-8")
    for name in STATES:
        (tmp_path / name).mkdir()
    folder = tmp_path / "cats.run"
    folder.mkdir()
    log = folder / "attempt-1.log"
    log.write_text("said", encoding="utf-8")
    run = record.Record("cats", "cats.toml", str(tmp_path / "cats.safetensors"), "python", {"config": "c"})
    run.attempts = [{"log": str(log), "from_step": 0}]
    run.save(folder)
    return tmp_path / "cats.safetensors"


def put(output: Path, *keeps: Path) -> Path | None:
    with record.alone(output.with_suffix(".run")):
        return backup.rename(output, output.with_suffix(".run"), keeps=keeps)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_all_of_it_goes_by_another_name(output: Path) -> None:
    assert put(output) == output.with_name("cats.1.run")
    moved = {name.replace("cats", "cats.1") for name in (*LEFT, *STATES)}
    assert names(output.parent) == {*moved, *OTHERS, "cats.1.run"}


def test_the_record_says_where_everything_is_now(output: Path) -> None:
    folder = put(output)
    assert folder
    run = record.read(folder)
    assert run
    assert (run.name, run.output) == ("cats.1", str(output.with_name("cats.1.safetensors")))
    assert Path(run.attempts[0]["log"]).read_text(encoding="utf-8") == "said"
    assert not record.is_alive(folder)


@pytest.mark.parametrize("is_used", [True, False])
def test_the_folder_of_tensorboard_goes_along_unless_it_is_empty(output: Path, is_used: bool) -> None:
    folder, logs = output.with_suffix(".run"), output.parent / "logs" / "cats"
    logs.mkdir(parents=True)
    (run := record.read(folder)).tensorboard = str(logs)
    run.save(folder)
    if is_used:
        (logs / "events").touch()
    with record.alone(folder):
        moved = backup.rename(output, folder, keeps=(), logs=logs)
    assert names(logs.parent) == ({"cats.1"} if is_used else {"cats"})
    assert record.read(moved).tensorboard == (str(logs.with_name("cats.1")) if is_used else None)


def test_a_state_stays_for_what_goes_on_from_it(output: Path) -> None:
    put(output, output.with_name(STATES[0]))
    assert names(output.parent) >= {STATES[0], "cats.1.safetensors", "cats.1-step00000020-state.partial"}


def test_a_state_that_some_run_began_from_stays(output: Path) -> None:
    state = output.with_name(STATES[0])
    manifest.write(state, step=10, made_by={})
    manifest.keep(state)
    put(output)
    assert {state.name, "cats.1.safetensors"} <= names(output.parent)
    assert "cats.1-step00000010-state" not in names(output.parent)


def test_the_next_one_has_the_next_number(output: Path) -> None:
    put(output)
    output.write_text("another", encoding="utf-8")
    assert put(output) == output.with_name("cats.2.run")
    assert output.with_name("cats.1.safetensors").read_text(encoding="utf-8") == "cats.safetensors"
    assert output.with_name("cats.2.safetensors").read_text(encoding="utf-8") == "another"


def test_a_lora_of_unknown_origin_goes_without_a_record(tmp_path: Path) -> None:
    (tmp_path / "cats.safetensors").touch()
    put(tmp_path / "cats.safetensors")
    assert names(tmp_path) == {"cats.1.safetensors"}


def test_where_nothing_is_nothing_is_put_aside(tmp_path: Path) -> None:
    assert put(tmp_path / "cats.safetensors") is None
    assert names(tmp_path) == set()


def test_the_folder_stays_held_meanwhile(output: Path) -> None:
    folder = output.with_suffix(".run")
    with record.alone(folder):
        backup.rename(output, folder)
        with pytest.raises(LoraError, match="another run"), record.alone(folder):
            pass
