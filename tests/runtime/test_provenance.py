from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.conftest import Trainer, Training, same

IDENTITY = {"LORA_IDENTITY": '{"config": "a1", "patches": "b2", "upstream": "c3"}'}


def written(training: Training) -> dict[str, str]:
    """Return this project's entries in the LoRA's metadata."""
    from safetensors import safe_open

    assert training.code == 0, training.log
    with safe_open(training.folder / "smoke.safetensors", "pt") as held:
        return {name: value for name, value in held.metadata().items() if name.startswith("lora_")}


@pytest.mark.upstream
def test_a_lora_says_what_made_it(train: Trainer, tmp_path: Path, plain: Training) -> None:
    done = train(tmp_path, runtime={"provenance": {}}, env=IDENTITY)
    assert written(done) == {"lora_config": "a1", "lora_patches": "b2", "lora_upstream": "c3"}
    assert written(plain) == {}
    assert same(done.weights(), plain.weights())


@pytest.mark.upstream
def test_without_metadata_it_says_nothing(train: Trainer, tmp_path: Path) -> None:
    done = train(tmp_path, "no_metadata=true", "max_train_steps=1", runtime={"provenance": {}}, env=IDENTITY)
    assert written(done) == {}
