"""A saved state is numbers: nothing in it is run, in whatever file of it code is hidden."""

from __future__ import annotations

import os
import pickle
import shutil
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.runtime.conftest import Trainer, Training

pytestmark = pytest.mark.upstream

ON: dict[str, Any] = {"exact-resume": {}, "ema": {}}
SAVING = ("save_state=true", "save_every_n_steps=2", "max_train_steps=4")
# what of a state is loaded by torch; a sampler, which accelerate could load, is with the random states
FILES = (
    *("lora-resume-0.pt", "ema.pt", "optimizer.bin", "scheduler.bin", "pytorch_model.bin", "custom_checkpoint_0.pkl"),
    "random_states_0.pkl",
)


class Code:
    """A pickle that makes a folder when it is loaded without restrictions."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def whole(train: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Training:
    training = train(tmp_path_factory.mktemp("whole"), *SAVING, runtime=ON)
    assert training.code == 0, training.log[-3000:]
    return training


def copied(whole: Training, folder: Path) -> Path:
    return shutil.copytree(whole.folder / "smoke-step00000002-state", folder / "state")


def resumed(train: Trainer, folder: Path, state: Path) -> Training:
    return train(folder, *SAVING, f"resume={state}", "skip_until_initial_step=true", runtime=ON)


@pytest.mark.parametrize("name", FILES)
def test_code_in_a_state_is_not_run(train: Trainer, tmp_path: Path, whole: Training, name: str) -> None:
    import torch

    state = copied(whole, tmp_path)
    code = {"epoch_start": Code(tmp_path / "ran"), "now": {}}
    if name == "pytorch_model.bin":
        (state / "model.safetensors").unlink()
    if name == "random_states_0.pkl":
        torch.save(code, state / "sampler.bin")
    torch.save(code, state / name)
    training = resumed(train, tmp_path / "on", state)
    assert not (tmp_path / "ran").exists()
    # accelerate passes over random states that it cannot load; all else ends the training
    assert (training.code == 0) == (name == "random_states_0.pkl"), training.log[-3000:]


def test_code_in_a_pickle_of_the_old_form_is_not_run(train: Trainer, tmp_path: Path, whole: Training) -> None:
    state = copied(whole, tmp_path)
    (state / "lora-resume-0.pt").write_bytes(pickle.dumps({"epoch_start": Code(tmp_path / "ran"), "now": {}}))
    training = resumed(train, tmp_path / "on", state)
    assert not (tmp_path / "ran").exists()
    assert "UnpicklingError" in training.log
