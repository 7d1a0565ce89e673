from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import toml

from lora_training.miniature import train_network
from tests.helpers import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SCRIPT = ROOT / "lora_training" / "miniature" / "train_network.py"


@pytest.fixture(scope="session")
def material(tmp_path_factory) -> Path:
    """A tiny model, its tokenizer and four images, with a dataset_config of two batches an epoch."""
    pytest.importorskip("torch", reason="needs the training packages: `make setup`")
    from lora_training.smoke.make import make

    folder = tmp_path_factory.mktemp("miniature") / "smoke"
    make(folder)
    write_dataset(folder / "dataset.toml", folder / "images")
    return folder


def write_dataset(file: Path, images: Path, **more: object) -> Path:
    options = {"image_dir": str(images), "shuffle_caption": True, "keep_tokens": 1, "caption_extension": ".txt"}
    file.write_text(toml.dumps({"datasets": [{"resolution": 64, "batch_size": 2, "subsets": [options | more]}]}))
    return file


@pytest.fixture(scope="session")
def flags(material) -> Callable[..., list[str]]:
    """Return the command line of a short training; keyword arguments replace its options, None removes one."""

    def build(out: Path, **given: object) -> list[str]:
        options: dict[str, object] = {
            "pretrained_model_name_or_path": material / "model",
            "tokenizer_cache_dir": material / "tokenizer",
            "dataset_config": material / "dataset.toml",
            "output_dir": out,
            "output_name": "tiny",
            "network_module": "networks.lora",
            "network_args": "loraplus_lr_ratio=4",
            "learning_rate": 1e-3,
            "max_train_steps": 5,
            "max_data_loader_n_workers": 0,
            "seed": 42,
        }
        pairs = [(f"--{key}", value) for key, value in (options | given).items() if value is not None]
        return [text for key, value in pairs for text in ([key] if value is True else [key, str(value)])]

    return build


@pytest.fixture(scope="session")
def train(flags) -> Callable[..., Path]:
    """Train in this process, which has torch loaded already; the LoRA's file."""

    def run(out: Path, **given: object) -> Path:
        from lora_training.miniature.trainer import Trainer

        args = train_network.setup_parser().parse_args(flags(out, **given))
        assert train_network.refusals(args) == []
        Trainer(args).train()
        return out / f"{args.output_name}.safetensors"

    return run


@pytest.fixture(scope="session")
def script(flags) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the script as upstream's is run, as a process of its own."""

    def run(out: Path, **given: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPT), *flags(out, **given)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=SCRIPT.parent)

    return run


@pytest.fixture(scope="session")
def whole(script, tmp_path_factory):
    """An uninterrupted training of five steps, in two epochs and a half, with states: the process and its folder."""
    out = tmp_path_factory.mktemp("whole")
    return script(out, save_every_n_steps=3, save_state=True), out
