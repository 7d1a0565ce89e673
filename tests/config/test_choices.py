"""Optimizers and schedulers by name, as `lora config check` sees them and as upstream itself takes them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lora_training.config.checks import optimizer
from lora_training.config.schema import source
from tests.config.helpers import images, needs_torch
from tests.helpers import ROOT, lora

pytestmark = [pytest.mark.upstream, pytest.mark.usefixtures("with_torch")]

UPSTREAM = """
import argparse, json, sys
import torch
from library import optimizer

weights = [torch.nn.Parameter(torch.zeros(2, 2))]
common = dict(optimizer_type="AdamW", lr_scheduler_type="", max_train_steps=10, lr_decay_steps=0,
              lr_scheduler_num_cycles=1, lr_scheduler_power=1, lr_scheduler_timescale=None)

def takes(name, warmup=0, ratio=None, words=None):
    args = argparse.Namespace(**common, lr_scheduler=name, lr_warmup_steps=warmup, lr_scheduler_min_lr_ratio=ratio,
                              lr_scheduler_args=words)
    try:
        optimizer.get_scheduler_fix(args, torch.optim.AdamW(weights), 1)
    except Exception:
        return False
    return True

given = {"cosine_with_min_lr": {"ratio": 0.1}, "piecewise_constant": {"words": ["step_rules='1:5,0.1'"]}}
answer = {}
for name in json.load(sys.stdin):
    more = given.get(name, {})
    answer[name] = [takes(name), takes(name, **more), takes(name, 2, **more)]
print("@@" + json.dumps(answer))
"""


def found(folder: Path, *flags: str) -> list[tuple[str, str, str]]:
    """Severity, key and message with hint of each problem that `lora config check --quick` has."""
    images(folder / "images")
    text = """script = "train_network"
pretrained_model_name_or_path = "org/model"
network_module = "networks.lora"
output_dir = "out"
{}
[[datasets]]
resolution = 64
[[datasets.subsets]]
image_dir = "images"
caption_extension = ".txt"
"""
    (folder / "c.toml").write_text(text.format("\n".join(flags)))
    ran = lora("config", "check", "--quick", "--json", folder / "c.toml", cwd=ROOT)
    problems = json.loads(ran.out)["files"][0]["problems"]
    assert ran.code == int(any(problem["severity"] == "error" for problem in problems))
    return [(each["severity"], each["key"], f"{each['message']}; {each['hint']}") for each in problems]


def one(folder: Path, *flags: str) -> tuple[str, str, str]:
    (only,) = found(folder, *flags)
    return only


@pytest.mark.parametrize(
    ("flags", "key", "words"),
    [
        (['lr_scheduler = "cosin"'], "lr_scheduler", "has no lr_scheduler `cosin`; did you mean `cosine`?"),
        (['lr_scheduler = "reduce_lr_on_plateau"'], "lr_scheduler", "upstream cannot start its"),
        (['lr_scheduler = "adafactor"'], "lr_scheduler", "needs Adafactor"),
        (["lr_warmup_steps = 5"], "lr_warmup_steps", "with `constant`; set lr_scheduler ="),
        (['lr_scheduler_type = "CosineAnealingLR"'], "lr_scheduler_type", "did you mean `CosineAnnealingLR`?"),
        (['lr_scheduler_type = "torch.optim.lr_scheduler.StepRL"'], "lr_scheduler_type", "did you mean `StepLR`?"),
        (['optimizer_type = "torch.optim.AdamQ"'], "optimizer_type", "neither upstream nor torch.optim has `AdamQ`"),
        (['optimizer_type = "AdamQ"'], "optimizer_type", "neither upstream nor torch.optim has `AdamQ`; did you mean"),
        (['optimizer_type = "adam"'], "optimizer_type", "did you mean `Adam`?"),
        (['optimizer_type = "torch.optum.Adam"'], "optimizer_type", "there is no module `torch.optum`"),
    ],
)
def test_a_name_that_upstream_would_not_take_is_an_error(
    tmp_path: Path, sd_scripts: Path, flags: list[str], key: str, words: str
) -> None:
    severity, named, said = one(tmp_path, *flags)
    assert (severity, named) == ("error", key)
    assert words in said


@pytest.mark.parametrize(
    "flags",
    [
        ['lr_scheduler = "cosine"', "lr_warmup_steps = 5"],
        ['optimizer_type = "SGD"'],
        ['optimizer_type = "adafactor"', 'lr_scheduler = "adafactor"'],
        ['optimizer_type = "torch.optim.Adam"', 'lr_scheduler_type = "torch.optim.lr_scheduler.StepLR"'],
    ],
)
def test_a_name_that_upstream_takes_is_right(tmp_path: Path, sd_scripts: Path, flags: list[str]) -> None:
    assert found(tmp_path, *flags) == []


def test_upstream_starts_every_scheduler_that_is_right_and_no_other(sd_scripts: Path) -> None:
    names = source.schedulers(sd_scripts)
    asked = json.dumps([*names, "cosin"])
    done = subprocess.run(
        [sys.executable, "-c", UPSTREAM], cwd=sd_scripts, input=asked, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.rpartition("@@")[2])
    assert {name for name in answer if answer[name][1]} == names - optimizer.BROKEN
    assert {name for name in answer if answer[name][1] and not answer[name][0]} == set(optimizer.NEEDED)
    assert {name for name in answer if answer[name][1] and not answer[name][2]} == {"constant"}


def test_what_we_say_of_packages_is_of_upstreams_own_names(sd_scripts: Path) -> None:
    assert set(optimizer.PACKAGE_OF) <= {name.lower() for name in source.optimizers(sd_scripts)}
    needs_torch()
    import torch

    assert {name for name in source.classes("torch.optim") if not hasattr(torch.optim, name)} == set()
