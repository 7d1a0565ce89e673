"""What engines say, as users report it, and what becomes of it."""

from __future__ import annotations

import pytest
from docker.errors import APIError

from lora_training.containers import connection
from lora_training.errors import EngineError

OCI = "failed to create task for container: failed to create shim task: OCI runtime create failed: "


@pytest.mark.parametrize(
    ("said", "sentence", "cure"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "no GPU to give", "nvidia-ctk runtime"),
        (f"{OCI}nvidia-container-cli: initialization error: nvml error: driver not loaded", "no GPU", "ACCELERATE_USE"),
        ("setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all", "no GPU to give", "nvidia-ctk cdi"),
        (f'{OCI}exec: "train": executable file not found in $PATH', "cannot be started", "entry point"),
        (
            'invalid mount config for type "bind": bind source path does not exist: /x',
            "cannot mount a folder",
            "this one",
        ),
        ("fill out specgen: b: invalid mount option", "a comma", "rename"),
        ("no space left on device", "the container engine refused: no space left on device", ""),
    ],
)
def test_a_refusal_is_one_sentence_with_what_to_do(said: str, sentence: str, cure: str) -> None:
    with pytest.raises(EngineError, match=sentence) as caught, connection.errors_reported():
        raise APIError("500 Server Error", explanation=said)
    assert said in caught.value.message
    assert cure in (caught.value.hint or "")
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 4


def test_podmans_errors_in_json_and_over_lines_are_one_line() -> None:
    said = '{"cause": "x", "message": "one\\n  two", "response": 500}'
    assert connection.sentence(APIError("500", explanation=said)) == "one two"
