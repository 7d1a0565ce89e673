"""What to do after the smoke run, said in the container image, where it is all that a bare `docker run` does."""

from __future__ import annotations

import os

# The image's name, set in the Dockerfile.
VARIABLE = "LORA_IMAGE"
_FOLDERS = "-v $PWD/data:/data -v $PWD/models:/models -v $PWD/out:/out"
_RUN = f"docker run --rm --user $(id -u):$(id -g) {_FOLDERS}"


def after_smoke() -> list[str]:
    """The lines to print; none outside the image."""
    image = os.environ.get(VARIABLE)
    if not image:
        return []
    new = "config new /data/my --preset sdxl --model /models/sd_xl_base_1.0.safetensors --images /data/images"
    return [
        "",
        "It works. Next, with your images in ./data/images and a model in ./models:",
        "  mkdir -p out",
        f"  {_RUN} {image} {new} --output-dir /out",
        f"  {_RUN} --gpus all --shm-size 8g --stop-timeout 300 {image} train /data/my.toml",
    ]
