from __future__ import annotations

import json
import os
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
    with pytest.raises(ConfigError, match="not a complete saved state"):
        states.at(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        states.at(tmp_path / "missing")


def test_a_damaged_one_is_not_taken_though_it_is_named(output: Path) -> None:
    folder = save(output, 8)
    (folder / "optimizer.bin").unlink()
    with pytest.raises(TrainingError, match=r"optimizer\.bin"):
        states.at(folder)


def described(folder: Path, **change: object) -> None:
    """Change fields of a state's manifest."""
    path = folder / manifest.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


SHA = "0" * 64
NAMES = ("/etc/passwd", "../x", "a/../../x", "", "a//b", "./a", "a\0b")
SENSELESS: dict[str, list[object]] = {
    "files": [{}, [], None, *({name: SHA} for name in NAMES), *({"optimizer.bin": each} for each in (5, "x", None))],
    "step": [None, "5", 5.0, -1, True, float("inf"), float("nan"), 10**400, [], {}],
    "made_by": [None, [], "x", {"config": 5}, {"config": None}],
}


@pytest.mark.parametrize(("field", "value"), [(name, each) for name, found in SENSELESS.items() for each in found])
def test_a_manifest_that_makes_no_sense_is_none(output: Path, field: str, value: object) -> None:
    folder = save(output, 8)
    described(folder, **{field: value})
    assert manifest.read(folder) is None
    with pytest.raises(ConfigError, match="is not a complete saved state"):
        states.at(folder)


@pytest.mark.parametrize("text", ["", "{", "[" * 200_000, '{"step": 1e999}', "5", "null", '"x"', "[]", "\ud800"])
def test_a_manifest_that_is_no_document_is_none(output: Path, text: str) -> None:
    folder = save(output, 8)
    (folder / manifest.NAME).write_text(text, errors="surrogatepass")
    assert newest(output)[0] is None


def test_a_manifest_that_is_a_pipe_a_link_or_huge_is_none_at_once(output: Path) -> None:
    for number, make in enumerate((os.mkfifo, lambda path: path.symlink_to("/dev/zero"), sparse)):
        path = save(output, number) / manifest.NAME
        path.unlink()
        make(path)
    assert newest(output)[0] is None


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


@pytest.mark.parametrize("name", ["custom_checkpoint_0.pkl", "deeper/more.bin"])
def test_a_file_that_the_manifest_does_not_list_makes_a_state_no_good(output: Path, name: str) -> None:
    path = save(output, 8) / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    step, passed = newest(output)
    assert step is None
    assert f"{name} is not among the files that it was saved with" in passed[0]


def test_what_comes_after_the_manifest_and_hidden_files_are_no_harm(output: Path) -> None:
    folder = save(output, 8)
    manifest.mark_passing(folder)
    for name in (manifest.LOSSES, f".{manifest.LOSSES}.partial", ".DS_Store"):
        (folder / name).touch()
    assert newest(output) == (8, [])


@pytest.mark.parametrize("target", ["/dev/zero", "../mine", "optimizer.bin"])
def test_a_link_in_a_state_is_not_followed(output: Path, target: str) -> None:
    folder = save(output, 8)
    (folder / "model.safetensors").rename(output.parent / "mine")
    (folder / "model.safetensors").symlink_to(target)
    step, passed = newest(output)
    assert step is None
    assert "model.safetensors is no regular file" in passed[0]


def test_a_folder_in_a_state_that_is_a_link_is_not_followed(output: Path) -> None:
    (save(output, 8) / "deeper").symlink_to("/")
    assert "deeper is no regular file" in newest(output)[1][0]


def test_a_passing_state_that_another_run_began_from_stays_until_it_is_another_state(output: Path) -> None:
    began, cleared = save(output, 8), save(output, 9)
    for state in (began, cleared):
        manifest.mark_passing(state)
    manifest.keep(began)
    states.clear_passing(output)
    assert (began.exists(), cleared.exists()) == (True, False)
    manifest.write(began, step=8, made_by={"config": "of somebody else"})
    states.clear_passing(output)
    assert not began.exists()


def test_a_state_beside_a_kept_one_of_its_name_is_found(output: Path) -> None:
    named = save(output, 8)
    manifest.keep(named)
    second = manifest.place(named)
    save(output, 9).rename(second)
    assert newest(output) == (9, [])


def test_what_is_about_to_be_replaced_is_kept_as_well(output: Path) -> None:
    named = save(output, 8)
    manifest.keep(named.rename(manifest.replaced(named)))
    assert manifest.place(named).name == "cats-step00000008-state.2"
