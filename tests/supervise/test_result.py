from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lora_training.errors import TrainingError
from lora_training.supervise import result

np = pytest.importorskip("numpy")
safetensors = pytest.importorskip("safetensors.numpy")

STEPS = {"ss_steps": "20", "ss_max_train_steps": "20"}


def save(path: Path, tensors: dict[str, Any] | None = None, metadata: dict[str, str] | None = None) -> Path:
    default = {"a.lora_down.weight": np.ones((2, 3), np.float32), "a.lora_up.weight": np.ones((3, 2), np.float32)}
    safetensors.save_file(default if tensors is None else tensors, path, STEPS if metadata is None else metadata)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(TrainingError) as caught:
        result.check(path, before=None)
    return caught.value.message


def test_a_sound_lora_is_accepted(tmp_path: Path) -> None:
    found = result.check(save(tmp_path / "a.safetensors"), before=None)
    assert (found.tensors, found.steps) == (2, 20)


def test_a_lora_that_is_not_there_is_no_success(tmp_path: Path) -> None:
    assert "without writing" in refusal(tmp_path / "a.safetensors")


def test_an_older_runs_lora_is_no_success(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors")
    with pytest.raises(TrainingError, match="without writing"):
        result.check(path, before=result.fingerprint(path))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:-5])
    assert "does not open" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"not a lora at all", b"\x02\0\0\0\0\0\0\0{]"])
def test_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert "does not open" in refusal(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_a_value_that_is_not_finite_is_refused_by_name(tmp_path: Path, bad: float, kind: str) -> None:
    values = np.ones((3, 2), kind)
    values[1, 1] = bad
    assert "a.lora_up.weight" in refusal(save(tmp_path / "a.safetensors", {"a.lora_up.weight": values}))


def test_bfloat16_is_looked_through_too(tmp_path: Path) -> None:
    import safetensors as raw

    def bf16(data: bytes) -> Path:
        tensor = {"dtype": "bfloat16", "shape": [2], "data": data}
        path = tmp_path / "a.safetensors"
        raw.serialize_file({"a.lora_up.weight": tensor}, path, STEPS)
        return path

    assert result.check(bf16(b"\x80\x3f\x00\x40"), before=None).tensors == 1
    assert "not finite" in refusal(bf16(b"\x80\x3f\xc0\x7f"))


def test_a_lora_that_never_left_its_start_is_refused(tmp_path: Path) -> None:
    zero = {"a.lora_down.weight": np.ones((2, 3), np.float32), "a.lora_up.weight": np.zeros((3, 2), np.float32)}
    assert "changes nothing" in refusal(save(tmp_path / "a.safetensors", zero))


def test_an_empty_lora_is_refused(tmp_path: Path) -> None:
    assert "no tensors" in refusal(save(tmp_path / "a.safetensors", {}))


def test_fewer_steps_than_planned_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", metadata={"ss_steps": "12", "ss_max_train_steps": "20"})
    assert "12 of 20" in refusal(path)


def test_a_lora_without_its_step_count_needs_the_trainings_word(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", metadata={})
    assert "says how many steps" in refusal(path)
    assert result.check(path, before=None, told=(20, 20)).steps == 20
    with pytest.raises(TrainingError, match="12 of 20"):
        result.check(path, before=None, told=(12, 20))


@pytest.mark.parametrize("metadata", ["null", "5", "[]", '{"lora_config": 5}', '"x"'])
def test_metadata_of_any_kind_are_none(tmp_path: Path, metadata: str) -> None:
    header = f'{{"__metadata__": {metadata}, "a": {{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}}}'
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"\0\0\x80?" * 2)
    assert result.metadata_of(path) == {}
    assert not result.is_made_by(path, {"config": "a"})
    with pytest.raises(TrainingError):
        result.check(path, before=None)


@pytest.mark.parametrize("length", [2**64 - 1, 100_000_001])
def test_a_header_that_is_longer_than_any_is_not_read(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    assert result.metadata_of(path) == {}
