"""Damage files at random, by a seed, as a bad disk, another program or an attacker may."""

from __future__ import annotations

import copy
import json
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# in place of any value: every type of JSON, numbers that are none, paths to stay away from, names that print badly
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, float("inf"), float("nan"), 10**400, 2**63, "", "x", "\0", "a\0b", "\ud800"),
    *("\udcff", "x" * 5000, "/dev/zero", "../..", "/", "~nobody/x", "\x1b[2J", "\u202e", "auto", "1e999", [], {}, [[]]),
    *([None], [{}], {"": None}, {"a": {"a": {}}}, {"path": 5}, "@90@", "@900@"),
)
DEEP = (90, 900)
WHOLE = (
    *(b"", b"[" * 200_000, b'{"a":' * 100_000, b"\xff\xfe", b"\xef\xbb\xbf{}", b"null", b"5", b'"x"', b"[]", b"{}"),
    *(b"NaN", b'{"step": 1e999}', b"1" * 5000, b"\0" * 100, b'{"a":1,"a":2}', b"[" * 900 + b"]" * 900),
)
PIECES = (*(b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\0", b"\xff", b"1e999", b"\\ud800", b"-", b"9" * 50),)


def seeded(seed: str) -> random.Random:
    """Numbers that are the same each time."""
    return random.Random(seed)


def document(rng: random.Random, whole: Any) -> bytes:
    """A JSON document with a value, a name or some bytes changed, or another altogether."""
    chance = rng.random()
    if chance < 0.7:
        text = json.dumps(_changed(rng, copy.deepcopy(whole)))
        for depth in DEEP:
            text = text.replace(f'"@{depth}@"', "[" * depth + "]" * depth)
        return text.encode()
    return blurred(rng, json.dumps(whole).encode()) if chance < 0.97 else rng.choice(WHOLE)


def tensor_file(rng: random.Random, header: Any, data: bytes) -> bytes:
    """A safetensors file whose header, its length or all of it is harmed."""
    text = document(rng, header) if rng.random() < 0.9 else json.dumps(header).encode()
    lengths = (0, 1, len(text) + 1, 2**63, 2**64 - 1, 10**8 + 1)
    length = rng.choice(lengths) if rng.random() < 0.15 else len(text)
    whole = length.to_bytes(8, "little") + text + data
    return blurred(rng, whole) if rng.random() < 0.1 else whole


def blurred(rng: random.Random, data: bytes) -> bytes:
    """The same with some bytes changed, cut off, put in or taken out."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, length = rng.randrange(len(data) + 1), rng.randrange(1, 30)
        data = rng.choice(
            (
                data[:at],
                data[:at] + rng.choice(PIECES) + data[at:],
                data[:at] + data[at + length :],
                data[:at] + data[at : at + length] + data[at:],
                data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
            )
        )
    return data


def _changed(rng: random.Random, whole: Any) -> Any:
    depth = rng.randrange(1, 5)
    places = list(_places(whole))
    parent, key = rng.choice([place for place in places if place[2] == depth] or places)[:2]
    chance = rng.random()
    if chance < 0.75:
        parent[key] = copy.deepcopy(rng.choice(VALUES))
    elif chance < 0.9 or isinstance(parent, list):
        del parent[key]
    else:
        parent[rng.choice(("", "\0", "x", "\ud800", "../x", "a" * 300))] = parent.pop(key)
    return whole


def _places(whole: Any, depth: int = 1) -> Iterator[tuple[Any, Any, int]]:
    """What holds each value, the value's key there, and how deep that is."""
    for key in list(whole) if isinstance(whole, dict) else range(len(whole)):
        yield whole, key, depth
        if isinstance(whole[key], dict | list):
            yield from _places(whole[key], depth + 1)
