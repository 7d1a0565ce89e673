"""Count the tokens of captions as upstream's tokenizers do, for the families whose tokenizers need no network."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_training import clip
from lora_training.preflight.job import Job

_CLIP = ("train_network", "sdxl_train_network")
_CLIP_CHUNK = 75
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# T5's tokens by upstream's default, of which an end mark takes one.
_T5 = {"flux_train_network": 512, "sd3_train_network": 256, "anima_train_network": 512}


def limit(job: Job) -> int | None:
    """Return the most tokens of a caption that a training uses; None where that is unknown."""
    if job.script in _CLIP:
        return int(job.number("max_token_length") or _CLIP_CHUNK)
    if job.script in _T5:
        given = job.number("t5xxl_max_token_length") or job.number("t5_max_token_length")
        return int(given or _T5[job.script]) - 1
    return None


def counter(job: Job, tree: Path) -> Callable[[str], int] | None:
    """Return a function that counts a caption's tokens; None without the tokenizer or the package for it."""
    if limit(job) is None or importlib.util.find_spec("tokenizers") is None:
        return None
    from tokenizers import Tokenizer

    file = tree / "configs" / "t5_old" / "tokenizer.json"
    if job.script in _T5 and not file.is_file():
        return None
    made = Tokenizer.from_file(str(file)) if job.script in _T5 else _clip()
    return (lambda text: len(made.encode(text, add_special_tokens=False).ids)) if made else None


def _clip() -> Any:
    """Return CLIP's tokenizer; None without its vocabulary."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    merges = clip.merges()
    if not merges:
        return None
    pairs = [tuple(merge.split(" ")) for merge in merges]
    made = Tokenizer(models.BPE(clip.vocabulary(merges), pairs, end_of_word_suffix="</w>", fuse_unk=False))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    made.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return made
