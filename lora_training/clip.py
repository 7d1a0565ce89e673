"""CLIP's tokenizer, made of its vocabulary in the package open_clip_torch, which is not imported.

The order of the 49,408 tokens is that of OpenAI's `simple_tokenizer.py`: 256 bytes, 256 bytes that end a word, 48,894
merges, and two special tokens.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

_MARKS = ("<|startoftext|>", "<|endoftext|>")
_SIZE = 49408
_CONFIG = {
    "tokenizer_class": "CLIPTokenizer",
    "model_max_length": 77,
    "do_lower_case": True,
    "bos_token": _MARKS[0],
    "eos_token": _MARKS[1],
    "unk_token": _MARKS[1],
    "pad_token": _MARKS[1],
}


def write(folder: Path) -> None:
    """Write the tokenizer as the files that transformers' CLIPTokenizer reads."""
    pairs = merges()
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary(pairs), ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(_CONFIG, indent=1), encoding="utf-8")


def merges() -> list[str]:
    """Return the pairs that are merged, each with a space between; none without the package."""
    found = importlib.util.find_spec("open_clip")
    if found is None or found.origin is None:
        return []
    packed = Path(found.origin).with_name("bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    # the first line is a header, and the file has more merges than CLIP uses
    return lines[1 : _SIZE - 512 - len(_MARKS) + 1]


def vocabulary(merges: list[str]) -> dict[str, int]:
    """Return the number of each token."""
    symbols = _alphabet()
    tokens = [
        *symbols,
        *(f"{symbol}</w>" for symbol in symbols),
        *(merge.replace(" ", "") for merge in merges),
        *_MARKS,
    ]
    return {token: number for number, token in enumerate(tokens)}


def _alphabet() -> list[str]:
    """Return a printable character for each byte, in CLIP's order: printable Latin-1 first, the others from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(code) for code in printable] + [chr(256 + number) for number in range(others)]
