from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lora_training.config import schema
from lora_training.config.loading import load
from lora_training.config.model import Config
from lora_training.config.schema import Schema
from tests.config.helpers import HERE, needs_torch
from tests.helpers import write

TRAIN = """
import argparse
import torch
from library import args as args_util
from library.config_util import add_config_arguments
from networks.missing import anything


def setup_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    args_util.add_training_arguments(parser, True)
    add_config_arguments(parser)
    return parser


class NetworkTrainer:
    def assert_extra_args(self, args, group):
        group.verify_bucket_reso_steps(64)


if __name__ == "__main__":
    setup_parser().parse_args()
"""
ARGS = """
import torch
from .names import *

PRECISIONS = [None, "fp16"]
PRECISIONS.append("bf16")
logger = torch.made_up()


def add_training_arguments(parser, support_dreambooth: bool, prefix="--"):
    def ratio(value):
        if value.endswith("%"):
            return float(value[:-1]) / 100.0
        number = float(value)
        return int(value) if number >= 1 else number

    parser.add_argument("--pretrained_model_name_or_path", type=str, default=None, help="model")
    parser.add_argument(f"{prefix}output_dir", type=str, help="directory " + "to write")
    parser.add_argument("--network_module", type=str)
    parser.add_argument("--network_dim", type=int, default=None)
    parser.add_argument("--network_args", type=str, default=None, nargs="*")
    parser.add_argument("--learning_rate", type=float, default=2.0e-6)
    parser.add_argument("--text_encoder_lr", type=float, nargs="*")
    parser.add_argument("--lr_warmup_steps", type=ratio, default=0)
    parser.add_argument("--save_precision", choices=PRECISIONS)
    parser.add_argument("--sampler", choices=[m.value for m in Sampler], default=Sampler.B.value)
    parser.add_argument("--resolution", type=str)
    parser.add_argument("--max_train_epochs", type=int)
    for name in SWITCHES:
        parser.add_argument("--" + name, action="store_true")
    if support_dreambooth:
        parser.add_argument("--reg_data_dir", type=str)
    else:
        parser.add_argument("--never")
    parser.set_defaults(seed=None)
    parser.add_argument("--seed", type=int, default=7)
"""
NAMES = """
import enum


class Sampler(str, enum.Enum):
    A = "euler"
    B = "ddim"


SWITCHES = ("cache_latents", "shuffle_caption") + tuple(s for s in ["enable_bucket"] if s)
"""
CONFIG_UTIL = """
import functools
from pathlib import Path
from voluptuous import Any, ExactSequence, Required, Schema


def add_config_arguments(parser):
    parser.add_argument("--dataset_config", type=Path, default=None, help="datasets")


class ConfigSanitizer:
    @staticmethod
    def __pair(klass, value):
        Schema(Any(klass, ExactSequence([klass, klass])))(value)
        return tuple(value)

    SUBSET = {"num_repeats": int, "shuffle_caption": bool, "caption_dropout_rate": Any(float, int)}
    DATASET = {"resolution": functools.partial(__pair.__func__, int), "batch_size": int, "enable_bucket": bool}
    FOLDER = {Required("image_dir"): str, "class_tokens": str, "caption_extension": str}

    def __init__(self, dreambooth, finetuning, controlnet, dropout):
        subset = self.__merged(self.SUBSET, self.FOLDER)
        dataset = self.__merged(self.DATASET, self.SUBSET, {"subsets": [subset]})

        def flexible(config):
            if all("metadata_file" in s for s in config.get("subsets", [])):
                return Schema(self.__merged(self.DATASET, {"subsets": [{Required("metadata_file"): str}]}))(config)
            return Schema(dataset)(config)

        general = self.__merged(self.DATASET, self.SUBSET)
        self.user_config_validator = Schema({"general": general, "datasets": [flexible]})

    @staticmethod
    def __merged(*dicts):
        merged = {}
        for one in dicts:
            for key, value in one.items():
                merged[key] = value
        return merged
"""
NETWORK = """
def create_network(multiplier, network_dim, **kwargs):
    ratio = kwargs.get("loraplus_lr_ratio", None)
    return blocks(4, settings=kwargs)


def blocks(number, settings):
    return settings["block_dims"] if "block_alphas" in settings else settings.pop("conv_dim")
"""
FILES = {
    "train_network.py": TRAIN,
    "library/__init__.py": "",
    "library/args.py": ARGS,
    "library/names.py": NAMES,
    "library/config_util.py": CONFIG_UTIL,
    "networks/lora.py": NETWORK,
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree built like upstream: what its parser is made of is spread over files, loops and conditions."""
    folder = tmp_path / "tree"
    write(folder, FILES)
    return folder


@pytest.fixture
def small(tree: Path) -> Schema:
    return schema.read(tree, "train_network")


@pytest.fixture
def config(tmp_path: Path):
    """Write a configuration and load it, with no environment but LORA_CACHE."""

    def make(text: str, *, sets: tuple[str, ...] = (), **environ: str) -> Config:
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        return load(path, sets=sets, environ={"LORA_CACHE": str(tmp_path / "cache"), **environ})

    return make


@pytest.fixture(scope="session")
def real(sd_scripts: Path) -> dict[str, Schema]:
    """The schema of every script at the pin."""
    return schema.read_all(sd_scripts)


class RealParsers:
    """Upstream's own parsers, in a process that has imported it once."""

    def __init__(self, tree: Path) -> None:
        argv = [sys.executable, str(HERE / "real_parsers.py"), "parse"]
        self.child = subprocess.Popen(
            argv, cwd=tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def parse(self, script: str, argv: list[str]) -> dict[str, object]:
        return self._ask({"script": script, "argv": argv})

    def takes(self, datasets: dict[str, object]) -> bool:
        return self._ask({"datasets": datasets})

    def _ask(self, question: dict[str, object]):
        assert self.child.stdin
        assert self.child.stdout
        self.child.stdin.write(json.dumps(question) + "\n")
        self.child.stdin.flush()
        return json.loads(self.child.stdout.readline())

    def close(self) -> None:
        self.child.communicate()


@pytest.fixture(scope="session")
def real_parsers(sd_scripts: Path):
    needs_torch()
    parsers = RealParsers(sd_scripts)
    yield parsers
    parsers.close()


@pytest.fixture
def with_torch() -> None:
    needs_torch()
