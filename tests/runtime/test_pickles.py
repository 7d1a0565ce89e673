"""Files of weights that would run code when they are loaded, in every place that takes weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT, lora
from tests.runtime.conftest import SMOKE, Trainer, smoke_images

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.upstream
MODULE = "import os\nos.mkdir({mark!r})\nclass Made:\n    pass\n"


@dataclass(frozen=True)
class Evil:
    """An object that makes a folder when it is unpickled."""

    mark: Path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def pickled(name: str, *, is_zip: bool = True) -> Callable[[Path, Path], Path]:
    def make(folder: Path, mark: Path) -> Path:
        path = folder / name
        torch.save({"state_dict": Evil(mark)}, path, _use_new_zipfile_serialization=is_zip)
        return path

    return make


def model_folder(folder: Path) -> Path:
    return Path(shutil.copytree(smoke_images().parent / "model", folder / "model"))


def folder_with_a_pickle(folder: Path, mark: Path) -> Path:
    model = model_folder(folder)
    (weights,) = (model / "unet").glob("*.safetensors")
    weights.unlink()
    pickled("diffusion_pytorch_model.bin")(model / "unet", mark)
    return model


def folder_with_a_module(folder: Path, mark: Path) -> Path:
    model = model_folder(folder)
    index = json.loads((model / "model_index.json").read_text(encoding="utf-8"))
    index["unet"] = ["own", "Made"]
    (model / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    (model / "unet" / "own.py").write_text(MODULE.format(mark=str(mark)), encoding="utf-8")
    return model


def folder_with_a_pipeline(folder: Path, mark: Path) -> Path:
    """diffusers looks for the module of a custom pipeline by its name, and None is a name to it."""
    model = model_folder(folder)
    text = "from diffusers import StableDiffusionPipeline as Made\n" + MODULE.format(mark=str(mark))
    (model / "None.py").write_text(text, encoding="utf-8")
    return model


LUMINA = "network_module=networks.lora_lumina"


@pytest.mark.parametrize(
    ("key", "make", "sets"),
    [
        ("pretrained_model_name_or_path", pickled("model.ckpt"), ()),
        ("pretrained_model_name_or_path", pickled("old.ckpt", is_zip=False), ()),
        ("pretrained_model_name_or_path", pickled("named-as-nothing"), ()),
        ("pretrained_model_name_or_path", folder_with_a_pickle, ()),
        ("vae", pickled("vae.pt"), ()),
        ("vae", pickled("vae.bin"), ()),
        ("network_weights", pickled("lora.pt"), ()),
        ("base_weights", pickled("lora.pt"), (LUMINA,)),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", None),
)
def test_no_file_of_weights_runs_code(
    train: Trainer, tmp_path: Path, key: str, make: Callable[[Path, Path], Path], sets: tuple[str, ...]
) -> None:
    mark = tmp_path / "ran"
    path = make(tmp_path, mark)
    training = train(tmp_path / "out", f"{key}={[str(path)] if key == 'base_weights' else path}", *sets)
    assert not mark.exists()
    assert training.code != 0
    assert "Weights only load failed" in training.log


def test_a_pickle_of_nothing_but_weights_is_loaded(train: Trainer, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = model_folder(tmp_path)
    (weights,) = (model / "unet").glob("*.safetensors")
    torch.save(load_file(weights), model / "unet" / "diffusion_pytorch_model.bin")
    weights.unlink()
    training = train(tmp_path / "out", f"pretrained_model_name_or_path={model}", "max_train_steps=1")
    assert training.code == 0, training.log


def test_a_pickle_with_code_is_one_error_unless_the_configuration_allows_it(sd_scripts: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    sets = ("--set", f"output_dir={tmp_path}", "--set", f"pretrained_model_name_or_path={tmp_path / 'model.ckpt'}")
    pickled("model.ckpt")(tmp_path, mark)
    refused = lora("train", SMOKE, *sets, cwd=ROOT, env=os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"})
    assert refused.code == 6
    assert "\nerror: a saved state or a pickled file of weights is damaged or holds more" in refused.err
    assert "[run] allow_pickle = true" in refused.err
    assert not mark.exists()
    allowed = lora("train", SMOKE, *sets, "--set", "run.allow_pickle=true", cwd=ROOT)
    assert mark.exists()
    assert "lora: this configuration lets pickled weights run code" in allowed.err


@pytest.mark.parametrize("make", [folder_with_a_module, folder_with_a_pipeline])
def test_a_module_that_a_model_brings_is_not_run(
    sd_scripts: Path, tmp_path: Path, make: Callable[[Path, Path], Path]
) -> None:
    mark = tmp_path / "ran"
    model = make(tmp_path, mark)
    sets = ("--set", f"output_dir={tmp_path / 'out'}", "--set", f"pretrained_model_name_or_path={model}")
    ran = lora("train", SMOKE, *sets, cwd=ROOT)
    assert not mark.exists()
    assert ran.code == 6
    assert "\nerror: the model brings Python code of its own, which is not run" in ran.err
