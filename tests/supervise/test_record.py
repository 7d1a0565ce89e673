"""Records of other versions, and the supervisor's own events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lora_training.supervise import digests, environment, record

OLD = {"name": "cats", "config": "c", "output": "o", "command": "x", "made_by": {}, "state": "complete", "started": 1.0}


def kept(folder: Path, text: str) -> record.Record | None:
    (folder / "run.json").write_text(text, encoding="utf-8")
    return record.read(folder)


def test_a_record_from_before_can_be_read(tmp_path: Path) -> None:
    run = kept(tmp_path, json.dumps(OLD))
    assert run
    assert (run.name, run.start, run.rerun_of, run.attempts) == ("cats", None, None, [])


def test_a_record_from_a_later_version_can_be_read(tmp_path: Path) -> None:
    run = kept(tmp_path, json.dumps({**OLD, "weather": "fine"}))
    assert run
    assert run.state == "complete"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '"x"'])
def test_what_is_no_record_is_none(tmp_path: Path, text: str) -> None:
    assert kept(tmp_path, text) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", None),
        ("output", "/"),
        ("made_by", {"config": 1}),
        ("started", "x"),
        ("started", 1e30),
        ("started", float("nan")),
        ("attempts", None),
        ("attempts", 3),
        ("result", []),
        ("result", {"steps": "4", "tensors": 1}),
        ("start", {}),
        ("why", 3),
    ],
)
def test_a_record_with_a_value_of_another_type_is_none(tmp_path: Path, field: str, value: Any) -> None:
    assert kept(tmp_path, json.dumps({**OLD, field: value})) is None


def test_an_attempt_that_makes_no_sense_is_left_out(tmp_path: Path) -> None:
    whole = {"log": "attempt-1.log", "from_step": 0}
    run = kept(tmp_path, json.dumps({**OLD, "attempts": [{}, whole, None, {**whole, "from_step": "x"}]}))
    assert run
    assert run.attempts == [{**whole, "log": str(tmp_path / "attempt-1.log")}]


def test_an_event_after_half_a_line_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "start"}\n{"event": "st')
    record.append_event(path, "restart", from_step=4)
    record.append_event(path, "closed", state="complete")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[1] == '{"event": "st'
    assert [json.loads(line)["event"] for line in lines[2:]] == ["restart", "closed"]


def test_an_event_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    record.append_event(tmp_path / "no folder" / "events.jsonl", "closed")


def test_each_package_is_in_the_environment_by_its_normal_name() -> None:
    found = environment.packages()
    assert "click" in found
    assert list(found) == sorted(found)
    assert all(name == name.lower() and "_" not in name for name in found)


def test_differences_of_the_environment_are_named() -> None:
    then = {"python": "3.10.1", "packages": {"torch": "2.6.0", "numpy": "2.2"}, "gpus": [], "driver": None}
    now = {
        "python": "3.10.1",
        "packages": {"torch": "2.7.0", "numpy": "2.2"},
        "gpus": [{"name": "H200"}],
        "driver": "570",
    }
    assert environment.differences(then, now) == [
        "packages: torch: 2.6.0 -> 2.7.0",
        "GPUs: none -> H200",
        "GPU driver: none -> 570",
    ]


def lora(path: Path, value: float, shape: tuple[int, int] = (2, 3), **metadata: str) -> Path:
    np = pytest.importorskip("numpy")
    save = pytest.importorskip("safetensors.numpy").save_file
    save({"a.lora_up.weight": np.full(shape, value, np.float32), "b": np.ones(2, np.float16)}, path, metadata)
    return path


def test_the_same_tensors_have_the_same_digests_whatever_the_metadata_say(tmp_path: Path) -> None:
    one = lora(tmp_path / "one.safetensors", 1.0, ss_training_started_at="1")
    two = lora(tmp_path / "two.safetensors", 1.0, ss_training_started_at="2")
    assert digests.of_tensors(one) == digests.of_tensors(two)
    other = digests.of_tensors(lora(tmp_path / "other.safetensors", 1.0, shape=(3, 2)))
    assert {name for name, digest in digests.of_tensors(one).items() if other[name] != digest} == {"a.lora_up.weight"}


def test_how_far_two_loras_are_apart(tmp_path: Path) -> None:
    one, other = lora(tmp_path / "one.safetensors", 1.0), lora(tmp_path / "other.safetensors", 1.25)
    assert digests.largest_difference(one, other) == 0.25
    assert digests.largest_difference(one, one) == 0.0
