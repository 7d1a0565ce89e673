"""Count the tokens of captions as upstream's tokenizers do, for the families whose tokenizers need no network."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_training.preflight.job import Job

_CLIP = ("train_network", "sdxl_train_network")
_CLIP_CHUNK, _CLIP_SIZE = 75, 49408
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# The flag for the number of T5's tokens, and upstream's default; an end mark takes one.
_T5 = {
    "flux_train_network": ("t5xxl_max_token_length", 512),
    "sd3_train_network": ("t5xxl_max_token_length", 256),
    "anima_train_network": ("t5_max_token_length", 512),
}


def limit(job: Job) -> int | None:
    """Return the most tokens of a caption that a training uses; None where that is unknown."""
    if job.script in _CLIP:
        return int(job.number("max_token_length") or _CLIP_CHUNK)
    if job.script in _T5:
        flag, default = _T5[job.script]
        return int(job.number(flag) or default) - 1
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
    """Return CLIP's tokenizer, from the vocabulary in open_clip_torch, which is not imported; None without it."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        return None
    packed = Path(spec.origin).with_name("bpe_simple_vocab_16e6.txt.gz").read_bytes()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = [*alphabet, *(f"{each}</w>" for each in alphabet)]
    # the first line is a header, and the file has more merges than CLIP uses
    lines = gzip.decompress(packed).decode("utf-8").split("\n")[1 : _CLIP_SIZE - len(symbols) - 1]
    merges = [(first, second) for first, _, second in (line.partition(" ") for line in lines)]
    tokens = dict.fromkeys([*symbols, *(first + second for first, second in merges)])
    vocabulary = {token: number for number, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", fuse_unk=False))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    made.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return made
