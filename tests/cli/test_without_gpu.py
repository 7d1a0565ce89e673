"""Settings that need a GPU: warnings of the check, errors and changes at the start without one."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from lora_training.runtime.patches import provenance
from tests.helpers import ROOT, Ran, lora, write

pytest.importorskip("torch")
pytestmark = pytest.mark.upstream
SMOKE = ROOT / "configs" / "smoke.toml"
FLUX = """
script = "flux_train_network"
pretrained_model_name_or_path = "flux.safetensors"
clip_l = "clip.safetensors"
t5xxl = "t5.safetensors"
ae = "ae.safetensors"
network_module = "networks.lora_flux"
output_dir = "out"
output_name = "flux"
max_train_steps = 10
blocks_to_swap = 18
[[datasets]]
resolution = 512
  [[datasets.subsets]]
  image_dir = "images"
"""


@pytest.fixture
def cpu(sd_scripts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def flux(sd_scripts: Path, tmp_path: Path) -> Path:
    files = [f"{name}.safetensors" for name in ("flux", "clip", "t5", "ae")]
    write(tmp_path, {"flux.toml": FLUX, "images/a.png": "", **dict.fromkeys(files, "")})
    return tmp_path / "flux.toml"


def with_a_gpu(folder: Path) -> dict[str, str]:
    write(folder, {"bin/nvidia-smi": "#!/bin/sh\necho 'GPU 0: one'\n"})
    (folder / "bin" / "nvidia-smi").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return {**kept, "PATH": f"{folder}/bin{os.pathsep}{os.environ['PATH']}"}


def train(file: Path, *words: str, env: dict[str, str] | None = None) -> Ran:
    return lora("train", file, *words, cwd=ROOT, env=env)


def identity(command: str) -> str:
    """Return the run's identity from the command that `--dry-run` prints."""
    return next(word for word in shlex.split(command) if word.startswith(f"{provenance.VARIABLE}="))


@pytest.mark.parametrize(
    ("key", "value"),
    [("mixed_precision", "fp16"), ("xformers", "true"), ("fp8_base", "true"), ("fp8_base_unet", "true")],
)
def test_what_needs_a_gpu_is_a_warning_of_the_check_and_an_error_of_the_training(
    cpu: None, tmp_path: Path, key: str, value: str
) -> None:
    bf16 = () if key == "mixed_precision" else ("--set", "mixed_precision=bf16")
    sets = ("--set", f"{key}={value}", *bf16, "--set", f"output_dir={tmp_path}/out")
    checked = lora("config", "check", "--quick", SMOKE, *sets, cwd=ROOT)
    assert checked.code == 0
    (told,) = [line for line in checked.out.splitlines() if "needs a GPU" in line]
    assert "warning: " in told
    assert key in told
    for more in ((), ("--dry-run",)):
        ran = train(SMOKE, *sets, *more)
        assert ran.code == 3
        assert "needs a GPU, and this machine has none to train on" in ran.err
    assert not (tmp_path / "out").exists()


def test_where_there_is_a_gpu_nothing_is_said(sd_scripts: Path, tmp_path: Path) -> None:
    sets = ("--set", "mixed_precision=fp16", "--set", f"output_dir={tmp_path}/out")
    env = with_a_gpu(tmp_path)
    assert "GPU" not in lora("config", "check", "--quick", SMOKE, *sets, cwd=ROOT, env=env).out
    ran = train(SMOKE, *sets, "--dry-run", env=env)
    assert ran.code == 0
    assert ran.err.splitlines()[-1] == "device    GPU, mixed_precision fp16"
    assert "warning" not in ran.err


def test_a_gpu_that_is_chosen_by_number_is_that_of_nvidia_smi(sd_scripts: Path, tmp_path: Path) -> None:
    words = ("--set", "launch.gpu_ids=[0]", "--set", f"output_dir={tmp_path}/out", "--dry-run")
    ran = train(SMOKE, *words, env=with_a_gpu(tmp_path))
    assert {"CUDA_DEVICE_ORDER=PCI_BUS_ID", "CUDA_VISIBLE_DEVICES=0"} <= {*shlex.split(ran.out)}, ran.err
    # a shell that has chosen GPUs by CUDA's own numbers
    ran = train(SMOKE, *words, env=with_a_gpu(tmp_path) | {"CUDA_VISIBLE_DEVICES": "0"})
    assert "CUDA_VISIBLE_DEVICES=0" in shlex.split(ran.out), ran.err
    assert "CUDA_DEVICE_ORDER" not in ran.out


def test_xformers_is_refused_where_its_kernels_do_not_load(sd_scripts: Path, tmp_path: Path) -> None:
    sets = ("--set", "xformers=true", "--set", f"output_dir={tmp_path}/out")
    env = with_a_gpu(tmp_path)
    ran = train(SMOKE, *sets, "--dry-run", env=env)
    assert (ran.code, "its kernels" in ran.err) == (0, False)
    # one that was built for another torch
    refuses = "def _register_extensions():\n    raise RuntimeError('undefined symbol')\n"
    write(tmp_path, {"site/xformers/__init__.py": "", "site/xformers/_cpp_lib.py": refuses})
    env["PYTHONPATH"] = str(tmp_path / "site")
    ran = train(SMOKE, *sets, "--dry-run", env=env)
    assert ran.code == 3
    assert "xformers`: its kernels do not load with the installed torch" in ran.err
    assert "sdpa = true" in ran.err
    checked = lora("config", "check", "--quick", SMOKE, *sets, cwd=ROOT, env=env)
    assert (checked.code, "warning: `xformers`: its kernels" in checked.out) == (0, True)


def test_a_container_is_left_to_find_out_by_itself(cpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    ran = train(SMOKE, "--set", "mixed_precision=fp16", "--docker", "--dry-run")
    assert ran.code == 0
    assert "needs a GPU" not in ran.err


@pytest.mark.parametrize("given", [(), ("--set", "split_mode=true")])
def test_a_block_swap_is_left_out_with_a_word(cpu: None, flux: Path, given: tuple[str, ...]) -> None:
    """FLUX's `split_mode` would bring it back."""
    ran = train(flux, *given, "--dry-run")
    assert ran.code == 0, ran.err
    assert "--blocks_to_swap" not in ran.out
    assert "--split_mode" not in ran.out
    assert "warning: `blocks_to_swap` is left out, since this machine has no GPU" in ran.err
    checked = lora("config", "check", "--quick", flux, cwd=ROOT)
    assert checked.code == 0, checked.out
    assert "warning: `blocks_to_swap` is left out" in checked.out


def test_a_run_whose_block_swap_is_left_out_is_the_same_run_on_a_gpu(flux: Path, tmp_path: Path) -> None:
    without = train(flux, "--dry-run", env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    with_one = train(flux, "--dry-run", env=with_a_gpu(tmp_path))
    assert "--blocks_to_swap 18" in with_one.out
    assert "left out" not in with_one.err
    assert identity(with_one.out) == identity(without.out)
