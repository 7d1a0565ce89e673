from __future__ import annotations

import pytest

from lora_training.launch import gpus


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, 4),
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "GPU-1a, GPU-2b ,GPU-3c"}, 3),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5"}, 4),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 0),
        ({"CUDA_VISIBLE_DEVICES": "1,-1,0"}, 1),
        ({"ACCELERATE_USE_CPU": "true"}, 0),
    ],
)
def test_what_may_be_used_of_four(environ: dict[str, str], found: int) -> None:
    assert gpus.there(environ, lambda: 4) == found


def test_without_the_drivers_tool_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert gpus.installed() == 0
