"""Pipes, devices and archives that inflate, where a configuration names files: an answer, and no waiting."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import ROOT, Ran
from tests.preflight.helpers import picture

pytest.importorskip("torch")
pytestmark = pytest.mark.upstream
FLAGS = """script = "train_network"
pretrained_model_name_or_path = "{model}"
network_module = "networks.lora"
output_dir = "out"
learning_rate = 1e-4
"""
DATASETS = """[[datasets]]
resolution = 64
[[datasets.subsets]]
image_dir = "images"
caption_extension = ".txt"
"""


@pytest.fixture
def folder(tmp_path: Path, sd_scripts: Path) -> Path:
    """A right configuration, `c.toml`, and a pipe that nobody writes to."""
    picture(tmp_path / "images" / "a.png", (128, 128))
    (tmp_path / "images" / "a.txt").write_text("a photo")
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "pipe.toml").symlink_to("pipe.safetensors")
    configured(tmp_path)
    return tmp_path


def configured(folder: Path, flags: str = "", datasets: str = DATASETS, model: str = "org/model") -> None:
    (folder / "c.toml").write_text(FLAGS.format(model=model) + flags + "\n" + datasets)


def lora(folder: Path, *words: str) -> Ran:
    """A command that is given up after a minute, in which it may not have waited."""
    argv = [sys.executable, "-m", "lora_training", *words, "c.toml"]
    environment = {**os.environ, "LORA_HOME": str(ROOT), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)
    return Ran(done.returncode, done.stdout, done.stderr)


def all_refuse(folder: Path, words: str) -> None:
    """Check, quick check, dry run and training all answer, and say why."""
    for command, code in ((["config", "check", "--quick"], 1), (["config", "check"], 1), (["train", "--dry-run"], 3)):
        ran = lora(folder, *command)
        assert (ran.code, words in ran.out + ran.err) == (code, True), (command, ran)
    ran = lora(folder, "train")
    assert (ran.code, words in ran.err) == (3, True), ran


LISTED = "[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nmetadata_file = '{}'\nimage_dir = 'images'\n"


@pytest.mark.parametrize(
    "configure",
    [
        lambda folder: configured(folder, 'dataset_config = "/dev/zero"', ""),
        lambda folder: configured(folder, 'dataset_config = "pipe.toml"', ""),
        lambda folder: configured(folder, 'in_json = "pipe.toml"\ntrain_data_dir = "images"\nresolution = "64"', ""),
        lambda folder: configured(folder, 'sample_prompts = "pipe.toml"'),
        lambda folder: configured(folder, 'network_weights = "pipe.safetensors"'),
        lambda folder: configured(folder, model="pipe.safetensors"),
        lambda folder: configured(folder, datasets=LISTED.format("/dev/zero")),
        lambda folder: configured(folder, 'vae = "/dev/null"'),
    ],
)
def test_a_pipe_or_a_device_where_a_file_should_be_is_refused_at_once(
    folder: Path, configure: Callable[[Path], None]
) -> None:
    configure(folder)
    all_refuse(folder, "is neither a file nor a folder")


def test_a_folder_where_a_file_should_be_and_the_other_way_round(folder: Path) -> None:
    configured(folder, 'sample_prompts = "images"')
    all_refuse(folder, "is a folder, not a file")
    configured(folder, datasets=DATASETS.replace('"images"', '"c.toml"'))
    all_refuse(folder, "is a file, not a folder")


def test_a_dataset_configuration_of_upstreams_own_names_no_pipe_and_is_no_book(folder: Path) -> None:
    configured(folder, 'dataset_config = "d.toml"', "")
    (folder / "d.toml").write_text(LISTED.format(folder / "pipe.toml"))
    ran = lora(folder, "config", "check")
    assert (ran.code, "pipe.toml cannot be read" in ran.out) == (1, True), ran
    with (folder / "d.toml").open("wb") as file:
        file.truncate(2**34)
    ran = lora(folder, "config", "check")
    assert (ran.code, "it is larger than" in ran.out) == (1, True), ran


def test_pipes_among_images_captions_and_a_models_parts_are_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "images" / "b.png")
    os.mkfifo(folder / "images" / "b.txt")
    ran = lora(folder, "config", "check")
    assert (ran.code, "b.png (it is no regular file)" in ran.out) == (1, True), ran
    (folder / "images" / "b.png").unlink()
    with (folder / "images" / "a.txt").open("wb") as file:
        file.truncate(2**34)
    ran = lora(folder, "config", "check")
    assert (ran.code, "a.txt cannot be read: it is larger than" in ran.out) == (1, True), ran
    (folder / "images" / "a.txt").write_text("a photo")
    (folder / "model").mkdir()
    os.mkfifo(folder / "model" / "model_index.json")
    configured(folder, model="model")
    ran = lora(folder, "config", "check")
    assert (ran.code, "model_index.json cannot be read: it is no regular file" in ran.out) == (1, True), ran


def test_a_cache_that_would_inflate_is_a_broken_one(folder: Path) -> None:
    import numpy as np

    configured(folder, "cache_latents = true\ncache_latents_to_disk = true")
    cache = folder / "images" / "a_0128x0128_sd.npz"
    np.savez_compressed(cache, latents_16x16=np.zeros((2**28,), np.uint8))
    ran = lora(folder, "config", "check")
    assert ran.code == 0, ran
    assert "1 cache file is broken, and set aside by `lora train` as NAME.broken: " in ran.out
    assert f"{cache} ({cache.stat().st_size} bytes that would inflate to {2**28 + 128})" in ran.out
    assert cache.exists()


def test_a_configuration_without_an_end_is_refused(folder: Path) -> None:
    (folder / "c.toml").unlink()
    (folder / "c.toml").symlink_to("/dev/zero")
    all_refuse(folder, "it is larger than")


@pytest.mark.parametrize("checks", ["all", "quick", "none"])
@pytest.mark.parametrize("cached", [False, True])
def test_an_eps_that_is_named_png_is_refused_and_starts_nothing(
    folder: Path, checks: str, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = ghostscript(folder, monkeypatch)
    eps(folder / "images" / "b.png")
    (folder / "images" / "b.txt").write_text("a photo")
    flags = "cache_latents = true\ncache_latents_to_disk = true" if cached else ""
    configured(folder, flags, DATASETS + f"[run]\nchecks = '{checks}'")
    if cached:
        import numpy as np

        np.savez(folder / "images" / "b_0064x0064_sd.npz", latents_8x8=np.ones((4, 8, 8), np.float32))
    for command, code in (["config", "check"], 1), (["train"], 3):
        ran = lora(folder, *command)
        assert ran.code == code, ran
        assert "1 image is not PNG, JPEG, WEBP, BMP" in ran.out + ran.err
        assert "b.png (an EPS, for which Ghostscript would be started)" in ran.out + ran.err
    assert not started.exists()


def test_upstream_would_have_started_ghostscript(
    folder: Path, sd_scripts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = ghostscript(folder, monkeypatch)
    picture = eps(folder / "images" / "b.png")
    code = f"from library.utils import load_image; load_image({str(picture)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=sd_scripts, capture_output=True, check=False, timeout=120)
    assert started.exists()


def test_the_training_process_starts_no_ghostscript_for_an_image_that_no_check_has_seen(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = ghostscript(folder, monkeypatch)
    picture = eps(folder / "a sample's image.png")
    script = folder / "script.py"
    script.write_text(f"from PIL import Image\nImage.open({str(picture)!r}).convert('RGB')\n")
    argv = [sys.executable, "-m", "lora_training.runtime", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert "cannot identify image file" in done.stderr
    assert not started.exists()


def ghostscript(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once a program named `gs` has been started."""
    started = folder / "started"
    program = folder / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return started


def eps(path: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (64, 64)).save(path, "EPS")
    return path
