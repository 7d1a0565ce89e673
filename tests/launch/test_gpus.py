from __future__ import annotations

from pathlib import Path

import pytest

from lora_training.errors import ConfigError
from lora_training.launch import gpus


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, 4),
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "GPU-1a, GPU-2b ,GPU-3c"}, 3),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5"}, 4),
        ({"CUDA_VISIBLE_DEVICES": "GPU-1a,GPU-2b,GPU-3c,MIG-4d,MIG-5e"}, 4),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 0),
        ({"CUDA_VISIBLE_DEVICES": "1,-1,0"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "7"}, 0),
        ({"CUDA_VISIBLE_DEVICES": "1,4,0"}, 1),
        ({"ACCELERATE_USE_CPU": "true"}, 0),
    ],
)
def test_what_may_be_used_of_four(environ: dict[str, str], found: int) -> None:
    assert gpus.usable(environ, lambda: 4) == found


UUIDS = ["GPU-1a2b-3c", "GPU-1aff-00", "MIG-77"]


@pytest.mark.parametrize(
    ("ids", "environ", "named"),
    [
        ((0, 2), {}, ("0", "2")),
        ((1, 0), {"CUDA_VISIBLE_DEVICES": "4, 6"}, ("6", "4")),
        (("GPU-1a2b-3c", "MIG-77"), {}, ("GPU-1a2b-3c", "MIG-77")),
        (("GPU-1aff",), {"CUDA_VISIBLE_DEVICES": "4,6"}, ("GPU-1aff",)),
        ((0,), {"CUDA_VISIBLE_DEVICES": "GPU-1aff-00"}, ("GPU-1aff-00",)),
    ],
)
def test_gpus_are_chosen_among_the_visible_ones(
    ids: tuple[int | str, ...], environ: dict[str, str], named: tuple[str, ...]
) -> None:
    assert gpus.chosen(ids, environ, lambda: UUIDS) == named


def test_a_uuid_that_the_driver_does_not_know_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "GPU 0: NVIDIA H100 (UUID: GPU-1a2b-3c)"
    monkeypatch.setenv("PATH", driver(tmp_path, line))
    assert gpus.uuids() == ["GPU-1a2b-3c"]
    with pytest.raises(ConfigError, match="there is no GPU GPU-9 on this machine"):
        gpus.chosen(("GPU-9",), {}, gpus.uuids)
    with pytest.raises(ConfigError, match="there is no GPU 2 on this machine"):
        gpus.chosen((2,), {"CUDA_VISIBLE_DEVICES": "4,6"}, gpus.uuids)


def test_without_the_drivers_tool_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert gpus.installed() == 0


def driver(folder: Path, said: str, code: int = 0) -> str:
    """A folder for PATH with a stand-in for the driver's tool."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{said}'\nexit {code}\n", encoding="utf-8")
    tool.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_a_number_that_no_gpu_has_leaves_none_to_train_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", driver(tmp_path, "GPU 0: NVIDIA H100 (UUID: GPU-1a2b-3c)"))
    assert gpus.has_one({"CUDA_VISIBLE_DEVICES": "0"})
    assert not gpus.has_one({"CUDA_VISIBLE_DEVICES": "1"})


def test_each_is_described_as_its_driver_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "NVIDIA H200, 143771, 570.86.15\nNVIDIA GB10, [N/A], 580.95.05"
    monkeypatch.setenv("PATH", driver(tmp_path, said))
    assert gpus.described() == [
        gpus.Gpu("NVIDIA H200", 143771, "570.86.15"),
        gpus.Gpu("NVIDIA GB10", None, "580.95.05"),
    ]


def test_a_driver_that_does_not_answer_describes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", driver(tmp_path, "NVIDIA-SMI has failed because it couldnt talk to the driver", 9))
    assert gpus.described() == []


def test_torch_is_asked_where_nvidias_driver_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.has_one({}) == torch.accelerator.is_available()
    assert not gpus.has_one({"CUDA_VISIBLE_DEVICES": ""})
