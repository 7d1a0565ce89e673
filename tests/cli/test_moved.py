"""A project that is moved with its configuration, data and outputs: its runs stay the same runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import numpy as safetensors

from lora_training import cli, manifest, workspace
from lora_training.app import plan as plans
from lora_training.supervise import record, run_index
from tests.helpers import ROOT, write

pytestmark = pytest.mark.upstream
CONFIG = """
script = "train_network"
[model]
pretrained_model_name_or_path = "models/base.safetensors"
[network]
network_module = "networks.lora"
network_dim = 4
[training]
learning_rate = 1e-3
max_train_steps = 20
[output]
output_dir = "out"
output_name = "cats"
logging_dir = "."
[[datasets]]
resolution = [64, 64]
  [[datasets.subsets]]
  image_dir = "images"
"""


@pytest.fixture
def project(sd_scripts: Path, tmp_path: Path) -> Path:
    """A project with a stopped run and its state, under a name with a space and an umlaut."""
    folder = tmp_path / "my cäts" / "project"
    write(folder, {"cats.toml": CONFIG, "models/base.safetensors": "", "images/a.png": "", "out/x": ""})
    plan = plans.make(workspace.Workspace(ROOT), folder / "cats.toml", (), write=True)
    state = folder / "out" / "cats-step00000010-state"
    state.mkdir()
    safetensors.save_file({"w": np.ones(3, np.float32)}, state / "model.safetensors")
    manifest.write(state, step=10, made_by=plan.made_by)
    plan.folder.mkdir()
    run = record.Record("cats", str(plan.config.path), str(plan.output), "python", dict(plan.made_by), "stopped")
    run.save(plan.folder)
    return folder


def test_it_goes_on_where_it_was_after_each_move(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = project
    for place in (project, tmp_path / "my cäts" / "elsewhere", tmp_path / "deeper" / "project"):
        place.parent.mkdir(exist_ok=True)
        before = before.rename(place)
        assert cli.run(["train", "--dry-run", str(place / "cats.toml")]) == 0
        assert f"continuing from step 10: {place}/out/cats-step00000010-state" in capsys.readouterr().err
        # as a start in this place does
        run = record.read(place / "out" / "cats.run")
        assert run
        run.save(place / "out" / "cats.run")
    assert cli.run(["train", "--dry-run", str(before / "cats.toml"), "--set", "learning_rate=1e-4"]) == 3
    assert "was made with another configuration" in capsys.readouterr().err


def test_a_state_to_resume_from_is_named_by_its_run(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_index.add(workspace.Workspace(ROOT), project / "out" / "cats.run")
    argv = ["train", "--dry-run", str(project / "cats.toml"), "--set", "output_name=dogs", "--resume"]
    assert cli.run([*argv, "cats"]) == 0
    assert f"--resume '{project}/out/cats-step00000010-state' " in capsys.readouterr().out
    assert cli.run([*argv, "cat"]) == 3
    assert (
        "cat does not exist\nhint: give --resume the folder of a saved state, or a run's name"
        in capsys.readouterr().err
    )
    shutil.rmtree(project / "out" / "cats-step00000010-state")
    assert cli.run([*argv, "cats"]) == 3
    assert "the run cats has no saved state to resume from" in capsys.readouterr().err


def test_with_another_data_set_it_is_another_run(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # a record of an earlier version
    path = project / "out" / "cats.run" / record.RECORD
    path.write_text(path.read_text(encoding="utf-8").replace('"began_in"', '"unknown"'), encoding="utf-8")
    moved = project.rename(tmp_path / "moved")
    assert cli.run(["train", "--dry-run", str(moved / "cats.toml")]) == 0
    (moved / "images").rename(tmp_path / "pictures")
    write(moved, {"cats.toml": CONFIG.replace('"images"', '"../pictures"')})
    assert cli.run(["train", "--dry-run", str(moved / "cats.toml")]) == 3
    assert "was made with another configuration" in capsys.readouterr().err


def test_the_digest_of_a_run_in_its_place_is_that_of_earlier_versions(tmp_path: Path) -> None:
    inputs = (["train_network", "--seed=1", "1"], {"datasets": [{"subsets": [{"image_dir": "/ä"}]}]}, {"ema": {"b": 1}})
    assert plans._config_digest(inputs, tmp_path) == "ed3dc629904f117ef4e457447834b4d9c689e5e391e87d49a1d4443cd36df7ce"
