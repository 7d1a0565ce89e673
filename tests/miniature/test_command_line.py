from __future__ import annotations

import subprocess
import sys

import pytest

from lora_training.miniature import train_network
from tests.miniature.conftest import SCRIPT


def call(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


def reasons(**given):
    args = train_network.setup_parser().parse_args([])
    needed = dict.fromkeys(train_network.REQUIRED, "something") | {"network_module": "networks.lora"}
    vars(args).update(needed | given)
    return train_network.refusals(args)


def test_it_is_small():
    assert sum(len(file.read_text().splitlines()) for file in SCRIPT.parent.rglob("*.py")) <= 300


def test_an_unknown_flag_is_refused():
    done = call("--no_such_flag", "1")
    assert done.returncode == 2
    assert "unrecognized arguments: --no_such_flag 1" in done.stderr


def test_a_flag_of_upstreams_that_it_cannot_obey_is_refused_before_anything_is_loaded():
    done = call("--xformers")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_what_it_can_obey_is_not_refused():
    assert reasons() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("xformers", True),
        ("mixed_precision", "bf16"),
        ("optimizer_type", "AdamW8bit"),
        ("lr_scheduler", "cosine"),
        ("network_module", "networks.loha"),
        ("save_model_as", "ckpt"),
        ("max_token_length", 225),
        ("log_with", "wandb"),
        ("logging_dir", "logs"),
    ],
)
def test_a_value_that_it_cannot_obey_is_refused(name, value):
    assert reasons(**{name: value}) == [f"the miniature has no --{name} {value}"]


@pytest.mark.parametrize(
    "name", ["network_dim", "save_every_n_steps", "max_train_steps", "gradient_accumulation_steps"]
)
def test_a_count_of_nothing_is_refused(name):
    assert reasons(**{name: 0}) == [f"--{name} must be at least 1"]


def test_zero_is_a_seed():
    assert reasons(seed=0, max_data_loader_n_workers=0) == []


def test_a_missing_model_is_refused():
    assert reasons(pretrained_model_name_or_path=None) == ["the miniature needs --pretrained_model_name_or_path"]


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert reasons() == ["the miniature trains in one process"]
