from __future__ import annotations

from pathlib import Path

import pytest

from lora_training import manifest
from lora_training.errors import ConfigError, TrainingError
from lora_training.supervise import states

np = pytest.importorskip("numpy")
safetensors = pytest.importorskip("safetensors.numpy")

ME = {"config": "a", "upstream": "b"}


def save(output: Path, step: int, *, made_by: dict[str, str] = ME, value: float = 1.0) -> Path:
    folder = output.parent / f"{output.stem}-step{step:08d}-state"
    folder.mkdir(parents=True)
    safetensors.save_file({"w": np.full(3, value, np.float32)}, folder / "model.safetensors")
    (folder / "optimizer.bin").write_bytes(b"\0" * 100)
    manifest.write(folder, step=step, made_by=made_by)
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out" / "cats.safetensors"


def newest(output: Path, made_by: dict[str, str] | None = None) -> tuple[int | None, list[str]]:
    passed: list[str] = []
    found = states.newest(output, lambda path, why: passed.append(f"{path.name}: {why}"), made_by)
    return (found.step if found else None), passed


def test_the_newest_whole_state_is_taken(output: Path) -> None:
    save(output, 8)
    save(output, 24)
    save(output, 16)
    assert newest(output) == (24, [])


def test_none_is_none(output: Path) -> None:
    assert newest(output) == (None, [])


def test_one_that_was_being_written_is_passed_over(output: Path) -> None:
    save(output, 8)
    (save(output, 16) / manifest.NAME).unlink()
    step, passed = newest(output)
    assert step == 8
    assert "never finished" in passed[0]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_damaged_one_is_passed_over_and_its_file_named(output: Path, name: str, harm: str) -> None:
    save(output, 8)
    path = save(output, 16) / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(data if harm == "flip" else data[:-1])
    step, passed = newest(output)
    assert step == 8
    assert name in passed[0]


def test_one_that_is_not_finite_is_passed_over(output: Path) -> None:
    save(output, 8)
    save(output, 16, value=float("nan"))
    assert newest(output)[0] == 8


def test_one_that_something_else_made_is_passed_over_when_that_counts(output: Path) -> None:
    save(output, 8)
    save(output, 16, made_by={"config": "other", "upstream": "b"})
    assert newest(output)[0] == 16
    assert newest(output, ME)[0] == 8


def test_what_differs_is_named(output: Path) -> None:
    state = states.at(save(output, 8, made_by={"config": "other", "upstream": "b"}))
    assert state.differences(ME) == ("config",)


def test_a_state_that_was_being_replaced_is_found_under_either_name(output: Path) -> None:
    folder = save(output, 8)
    folder.rename(folder.with_name(f"{folder.name}.old"))
    assert newest(output) == (8, [])


@pytest.mark.parametrize("name", ["cats-and-dogs", "cats-2", "cats-000002"])
def test_another_runs_states_in_the_folder_are_left_alone(output: Path, name: str) -> None:
    save(output.with_name(f"{name}.safetensors"), 99)
    assert newest(output) == (None, [])


def test_a_name_with_brackets_finds_its_own_states(output: Path) -> None:
    strange = output.with_name("dog[1].safetensors")
    save(strange, 8)
    assert newest(strange) == (8, [])


def test_a_folder_that_is_no_state_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no state"):
        states.at(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        states.at(tmp_path / "missing")


def test_a_damaged_one_is_not_taken_though_it_is_named(output: Path) -> None:
    folder = save(output, 8)
    (folder / "optimizer.bin").unlink()
    with pytest.raises(TrainingError, match=r"optimizer\.bin"):
        states.at(folder)
