"""Every preset trains as written, apart from models, images, sizes and settings that need a GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lora_training.config import presets
from lora_training.config.loading import load
from tests.families import drill
from tests.helpers import ROOT

pytestmark = [pytest.mark.upstream, pytest.mark.families]
NAMES = [name for name in presets.names(ROOT / "configs") if name != "smoke"]
# the file of a tiny model, where the preset's has another name
FILES = {
    "sd_xl_base_1.0": "sdxl",
    "flux1-dev": "flux",
    "t5xxl_fp16": "t5xxl",
    "sd3.5_medium": "sd3",
    "qwen_3_06b_base": "qwen3",
    "qwen_image_vae": "vae",
    "lumina-image-2": "lumina",
    "gemma-2-2b": "gemma2",
    "hunyuanimage2.1": "hunyuan-image",
    "qwen_2.5_vl_7b": "qwen2.5-vl",
    "byt5_small_glyphxl_fp16": "byt5",
    "hunyuan_image_2.1_vae_fp16": "vae",
}
SMALL = (
    "datasets.0.resolution=[128, 128]",
    "datasets.0.min_bucket_reso=64",
    "datasets.0.subsets.0.num_repeats=2",
    "max_train_epochs=1",
    "runtime.tiny-models=true",
)
WITHOUT_GPU = {
    "sd15": (
        *("mixed_precision=no", "xformers=false", "sdpa=true"),
        "runtime.tiny-unet={block_out_channels = [32, 64, 64, 64]}",
    ),
    "low-vram": ("fp8_base=false",),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_trains(name: str, env: dict[str, str], cache: Path, tmp_path: Path) -> None:
    text = (ROOT / "configs" / f"{name}.toml").read_text(encoding="utf-8").replace("gpu_ids = [0, 1]\n", "")
    (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
    script = load(tmp_path / f"{name}.toml").script.removesuffix("_train_network").replace("_", "-")
    models = cache / ("smoke" if name == "sd15" else f"smoke-{script}")
    images = drill.copied_images(cache / "smoke-sdxl" / "images", tmp_path)
    sets = [*SMALL, f"datasets.0.subsets.0.image_dir={images}", *WITHOUT_GPU.get(name, ())]
    for key, file in re.findall(r'^(\w+) = "models/(.*)\.safetensors"', text, re.MULTILINE):
        sets.append(f"{key}={models / 'model' if name == 'sd15' else models / f'{FILES.get(file, file)}.safetensors'}")
    if (models / "tokenizer").exists():
        sets.append(f"tokenizer_cache_dir={models / 'tokenizer'}")
    trained = drill.train(tmp_path / f"{name}.toml", tmp_path / "out", env, *sets)
    assert trained.ran.code == 0, trained.ran.err
