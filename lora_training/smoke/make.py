"""Write the model, tokenizers and images of a smoke run to one folder, atomically.

As a program, in the training environment: `python -m lora_training.smoke.make FOLDER [FAMILY]`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from lora_training import clip
from lora_training.smoke import families, images, model

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
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch) / folder.name
        made.mkdir()
        if family:
            families.write(made, family)
        else:
            clip.write(made / TOKENIZER)
            images.write(made / "images")
            model.write(made / "model", tokenizer_folder=made / TOKENIZER)
        try:
            made.rename(folder)
        except OSError:
            # another process was first and wrote the same content
            if not folder.exists():
                raise


if __name__ == "__main__":
    make(Path(sys.argv[1]), *sys.argv[2:])
