"""CLIP's real tokenizer, as the files that transformers reads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lora_training import clip

if TYPE_CHECKING:
    from pathlib import Path

_CONFIG = {
    "tokenizer_class": "CLIPTokenizer",
    "model_max_length": 77,
    "do_lower_case": True,
    "bos_token": clip.MARKS[0],
    "eos_token": clip.MARKS[1],
    "unk_token": clip.MARKS[1],
    "pad_token": clip.MARKS[1],
}


def write(folder: Path) -> None:
    """Write `vocab.json`, `merges.txt` and the settings file for transformers' CLIPTokenizer."""
    merges = clip.merges()
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(clip.vocabulary(merges), ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(_CONFIG, indent=1), encoding="utf-8")
