"""CLIP's vocabulary, from the package open_clip_torch, which is not imported.

The order of the 49,408 tokens is that of OpenAI's `simple_tokenizer.py`: 256 bytes, 256 bytes that end a word, 48,894
merges, and two special tokens.
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

MARKS = ("<|startoftext|>", "<|endoftext|>")
_SIZE = 49408


def merges() -> list[str]:
    """Return the pairs that are merged, each with a space between; none without the package."""
    found = importlib.util.find_spec("open_clip")
    if found is None or found.origin is None:
        return []
    packed = Path(found.origin).with_name("bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    # the first line is a header, and the file has more merges than CLIP uses
    return lines[1 : _SIZE - 512 - len(MARKS) + 1]


def vocabulary(merges: list[str]) -> dict[str, int]:
    """Return the number of each token."""
    symbols = _alphabet()
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *(merge.replace(" ", "") for merge in merges), *MARKS]
    return {token: number for number, token in enumerate(tokens)}


def _alphabet() -> list[str]:
    """Return a printable character for each byte, in CLIP's order: printable Latin-1 first, the others from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(code) for code in printable] + [chr(256 + number) for number in range(others)]
