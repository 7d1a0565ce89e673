"""Write the model, tokenizers and images of a smoke run to one folder, atomically."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from lora_training.smoke import families, images, model, tokenizer

# Upstream looks for the CLIP tokenizer under this name in `--tokenizer_cache_dir`.
TOKENIZER = Path("tokenizer") / "openai_clip-vit-large-patch14"


def make(folder: Path, family: str = "") -> None:
    """Write `folder/images`, `folder/tokenizer` and a model, the same each time.

    Without a family the model is an SD 1.x one in diffusers' layout, `folder/model`; else its files lie in `folder`.
    They are written to a temporary folder, which is then renamed, so an existing folder is complete. It is not changed.
    """
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        if family:
            families.write(aside, family)
        else:
            tokenizer.write(aside / TOKENIZER)
            images.write(aside / "images")
            model.write(aside / "model", tokenizer_folder=aside / TOKENIZER)
        aside.chmod(0o755)
        _claim(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _claim(aside: Path, folder: Path) -> None:
    try:
        aside.rename(folder)
    except OSError:
        # another process was first and wrote the same content
        if not folder.exists():
            raise
