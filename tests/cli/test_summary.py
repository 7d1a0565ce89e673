"""What `lora train` says of a training before it starts: the numbers are those of upstream's own log."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lora_training import cli

CONFIG = """\
script = "sdxl_train_network"
[model]
pretrained_model_name_or_path = "model"
[network]
network_module = "networks.lora"
[training]
{steps}
gradient_accumulation_steps = 2
learning_rate = 1e-4
[output]
output_dir = "out"
output_name = "cats"
save_every_n_epochs = 1
[[datasets]]
resolution = [256, 256]
batch_size = 2
enable_bucket = true
min_bucket_reso = 128
  [[datasets.subsets]]
  image_dir = "images"
  num_repeats = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three square images, and two that are twice as wide as high."""
    (tmp_path / "model").mkdir()
    (tmp_path / "images").mkdir()
    for number, size in enumerate([(256, 256)] * 3 + [(512, 256)] * 2):
        Image.new("RGB", size).save(tmp_path / "images" / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("steps", "said", "loras"),
    [
        # 9 and 6 samples make 5 and 3 batches of two, and two batches a step
        ("max_train_epochs = 10", "40 = 10 epochs of 4, batch 2 x 2 accumulated", 10),
        ("max_train_steps = 41", "41 = 11 epochs of 4, batch 2 x 2 accumulated", 11),
    ],
)
def test_a_dry_run_says_what_would_be_trained(
    folder: Path, steps: str, said: str, loras: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cats.toml").write_text(CONFIG.format(steps=steps))
    assert cli.run(["train", str(folder / "cats.toml"), "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    lines = err.splitlines()
    assert lines[:3] == ["images    5 x 3 repeats", "buckets   256x256 (9), 320x192 (6)", f"steps     {said}"]
    assert lines[3] == f"saves     the LoRA, {loras - 1} checkpoints in {folder / 'out'}"
    assert lines[4].startswith("device    ")
    # the images have no captions
    (warning,) = lines[5:]
    assert warning.startswith(f"warning   {folder / 'cats.toml'}:19:")
    assert "5 of 5 images in" in warning
    assert not (folder / "out").exists()
