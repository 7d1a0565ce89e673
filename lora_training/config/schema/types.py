"""Convert words with the type functions of upstream's flags."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from lora_training.config.schema import reader

if TYPE_CHECKING:
    from lora_training.config.schema.flags import Flag

_NEGATIVE = re.compile(r"-\d+$|-\d*\.\d+$")  # argparse's own pattern
_PYTHON = {"int": int, "float": float, "str": str, "Path": str, None: str}


def is_negative_number(word: str) -> bool:
    """Whether argparse takes a word with a leading `-` for a value."""
    return bool(_NEGATIVE.match(word))


class Unknown(Exception):
    """The type function cannot be called without upstream's packages."""


def converted(flag: Flag, word: str) -> Any:
    """Convert `word` as upstream's parser would. Raises ValueError if it would refuse, Unknown if that is unknown."""
    if flag.type in _PYTHON:
        return _PYTHON[flag.type](word)
    kind, value = reader.convert(flag.type_source, word) if flag.type_source else ("unknown", None)
    if kind == "refusal":
        raise ValueError(value)
    if kind == "unknown":
        raise Unknown(str(flag.type))
    return value


def refusal(flag: Flag, word: str) -> str | None:
    """Return why upstream's parser would refuse `word`, or None."""
    try:
        converted(flag, word)
    except ValueError as exc:
        return str(exc)
    except Unknown:
        return None
    return None


def chosen(flag: Flag, word: str) -> bool:
    """Whether the converted `word` is one of the flag's choices."""
    try:
        return converted(flag, word) in (flag.choices or ())
    except Unknown:
        return True
