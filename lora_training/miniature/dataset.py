"""Images and captions of upstream's `dataset_config`, in an order set by the seed and the epoch alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import toml
import torch
from PIL import Image

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
OPTIONS = {"image_dir": "", "num_repeats": 1, "class_tokens": "", "caption_extension": ".caption", "batch_size": 1}
OPTIONS |= {"shuffle_caption": False, "keep_tokens": 0, "enable_bucket": False, "bucket_reso_steps": 64}
OPTIONS |= {"min_bucket_reso": 256, "max_bucket_reso": 1024, "resolution": [0, 0]}


class Images:
    """The images. An item's key is (index, seed for shuffling the caption), the item (pixels or latents, caption)."""

    def __init__(self, config: Path, batch_size: int) -> None:
        self.samples: list[tuple[Path, dict[str, Any]]] = []
        self.latents: list[torch.Tensor] = []
        self.groups: list[list[int]] = []  # indices into samples, one group per dataset
        defaults = OPTIONS | {"batch_size": batch_size, "image_dir": None}
        document = (json if config.suffix == ".json" else toml).loads(config.read_text(encoding="utf-8"))
        for dataset in document.get("datasets", []):
            self.groups.append([])
            for subset in dataset.pop("subsets", []):
                options = defaults | document.get("general", {}) | dataset | subset
                options["resolution"] = side if isinstance(side := options["resolution"], list) else [side, side]
                if wrong := [key for key, value in options.items() if type(value) is not type(OPTIONS.get(key))]:
                    raise ValueError(f"{config}: unknown to the miniature or of a wrong type: {', '.join(wrong)}")
                for path in sorted(p for p in Path(options["image_dir"]).iterdir() if p.suffix.lower() in EXTENSIONS):
                    self.groups[-1] += [len(self.samples)] * options["num_repeats"]
                    self.samples.append((path, options))
        if not any(self.groups):
            raise ValueError(f"No data found. There is no image in the folders of {config}")

    def batches(self, seed: int, epoch: int) -> list[list[tuple[int, int]]]:
        """Return the batches of an epoch in order, as keys of items; a batch has images of one dataset only."""
        rng, batches = np.random.default_rng([seed, epoch]), []
        for group in filter(None, self.groups):
            keys = [(index, int(rng.integers(2**63))) for index in rng.permutation(group).tolist()]
            size = self.samples[group[0]][1]["batch_size"]
            batches += [keys[start : start + size] for start in range(0, len(keys), size)]
        return [batches[at] for at in rng.permutation(len(batches))]

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, str]:
        path, options = self.samples[key[0]]
        file, keep = path.with_suffix(options["caption_extension"]), options["keep_tokens"]
        caption = file.read_text(encoding="utf-8") if file.is_file() else options["class_tokens"]
        tags = [tag.strip() for tag in caption.partition("\n")[0].split(",")]
        if options["shuffle_caption"]:
            tags = [*tags[:keep], *np.random.default_rng(key[1]).permutation(tags[keep:])]
        return self.latents[key[0]] if self.latents else self.pixels(path, options), ", ".join(tags)

    def pixels(self, path: Path, options: dict[str, Any]) -> torch.Tensor:
        """Return an image, (3, height, width), from -1 to 1. As upstream, it is resized only with buckets."""
        w, h = options["resolution"]
        with Image.open(path) as image:
            if image.size != (w, h) and (not options["enable_bucket"] or image.width * h != image.height * w):
                raise ValueError(f"the miniature has no bucket for an image of the size {image.size}: {path}")
            fitted = image.convert("RGB").resize((w, h), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(fitted, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)
