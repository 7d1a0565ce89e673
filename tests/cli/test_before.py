from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_training import workspace
from tests.helpers import ROOT, Ran, lora
from tests.preflight.helpers import cut, picture

pytest.importorskip("torch")
pytestmark = pytest.mark.upstream
SMOKE = ROOT / "configs" / "smoke.toml"


def config(folder: Path, images: Path) -> Path:
    path = folder / "mine.toml"
    path.write_text(SMOKE.read_text(encoding="utf-8").replace("${LORA_CACHE}/smoke/images", str(images)))
    return path


def train(file: Path, output: Path, *sets: str, **more: object) -> Ran:
    words = [word for setting in (f"output_dir={output}", *sets) for word in ("--set", setting)]
    return lora("train", file, *words, cwd=ROOT, **more)


def test_broken_images_stop_the_start_all_at_once(sd_scripts: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / "images" / name, (64, 64))
    for name in ("a.png", "c.png"):
        cut(tmp_path / "images" / name)
    file = config(tmp_path, tmp_path / "images")
    ran = train(file, tmp_path / "out")
    assert ran.code == 3
    assert "error: 2 images do not decode: " in ran.err
    assert all(str(tmp_path / "images" / name) in ran.err for name in ("a.png", "c.png"))
    assert "Traceback" not in ran.err
    # no attempt was made, and nothing is left behind
    assert not (tmp_path / "out").exists()


def test_a_model_and_images_are_refused_together_and_only_read_images_when_asked(
    sd_scripts: Path, tmp_path: Path
) -> None:
    bad = cut(picture(tmp_path / "images" / "a.png", (64, 64)))
    model = tmp_path / "model.safetensors"
    model.write_text("<!DOCTYPE html>")
    file, given = config(tmp_path, tmp_path / "images"), f"pretrained_model_name_or_path={model}"
    ran = train(file, tmp_path / "out", given)
    assert ran.code == 3
    assert "a web page" in ran.err
    assert str(bad) in ran.err
    quick = train(file, tmp_path / "out", given, "run.checks=quick")
    assert quick.code == 3
    assert "a web page" in quick.err
    assert str(bad) not in quick.err


def test_a_disk_that_is_too_small_stops_the_start(
    sd_scripts: Path, tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    ran = train(config(tmp_path, smoke_images(tmp_path)), small_disk("512k") / "out")
    assert ran.code == 3
    assert "left; one checkpoint takes" in ran.err


def smoke_images(folder: Path) -> Path:
    return picture(folder / "images" / "a.png", (64, 64)).parent


def test_an_interrupt_ends_the_checks_at_once(sd_scripts: Path, tmp_path: Path) -> None:
    original = picture(tmp_path / "large.png", (2000, 2000))
    images = tmp_path / "images"
    images.mkdir()
    for number in range(2000):
        os.link(original, images / f"{number}.png")
    argv = [sys.executable, "-m", "lora_training", "train", str(config(tmp_path, images))]
    running = subprocess.Popen(
        [*argv, "--set", f"output_dir={tmp_path / 'out'}"],
        cwd=ROOT,
        env=os.environ | {workspace.CACHE_VARIABLE: str(workspace.Workspace(ROOT).cache)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr
    said = next(line for line in running.stderr if "checking 2000 images" in line)
    running.send_signal(signal.SIGINT)
    said += running.stderr.read()
    assert running.wait() == 130
    assert "Traceback" not in said
    assert not (tmp_path / "out" / "smoke.run" / "run.json").exists()
