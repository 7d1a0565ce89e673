"""Ask a child process for the flags of upstream's scripts, and for what their type functions make of a word."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_training import proc
from lora_training.config.schema.model import STYLE_KEYS, Flag
from lora_training.errors import UpstreamError

TIMEOUT_S = 60.0
_CHILD = Path(__file__).with_name("child.py")
# standard library only; compiled files are neither read nor written in upstream's tree
_ALONE = ("-I", "-S", "-B", "-X", f"pycache_prefix={os.devnull}", "-W", "ignore")
_NOTHING: dict[str, Any] = {"keys": {}, "required": []}
_NO_DATASETS = {"general": _NOTHING, "styles": {"dreambooth": {"dataset": _NOTHING, "subset": _NOTHING}}}
_NEGATIVE = re.compile(r"-\d+$|-\d*\.\d+$")  # argparse's own pattern
_PYTHON = {"int": int, "float": float, "str": str, "Path": str, None: str}


def read(tree: Path, scripts: Sequence[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the flags, bucket steps and dataset tables of each script, and the files that they depend on.

    Raises UpstreamError, naming file and line, if a script cannot be read.
    """
    data = _ask(["read", str(tree.absolute()), json.dumps(STYLE_KEYS), *scripts], f"the flags of {tree}")
    found = {name: _value(each, f"setup_parser() of {name}.py") for name, each in data["scripts"].items()}
    datasets = _value(data["datasets"], "the dataset schema of library/config_util.py") or _NO_DATASETS
    return {name: {"script": name, "datasets": datasets, **each} for name, each in found.items()}, data["looked_at"]


def parse(tree: Path, asked: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Have the own parser of each script, named by its path without `.py`, read a command line."""
    answer = _ask(["parse", str(tree.absolute())], f"the arguments of {', '.join(asked)}", stdin=json.dumps(asked))
    return {name: _value(told, f"the arguments of {name}.py") for name, told in answer.items()}


def _value(found: dict[str, Any], what: str) -> Any:
    if "error" in found:
        raise UpstreamError(f"cannot read {what}: {found['error']}")
    return found["value"]


def _ask(words: Sequence[str], what: str, stdin: str | None = None) -> dict[str, Any]:
    try:
        done = proc.run([sys.executable, *_ALONE, str(_CHILD), *words], cwd=Path("/"), stdin=stdin, timeout_s=TIMEOUT_S)
        answer: dict[str, Any] = json.loads(done.stdout)
    except (proc.ProcError, ValueError) as exc:
        raise UpstreamError(f"cannot read {what}", hint=getattr(exc, "hint", None) or str(exc)) from exc
    return answer


# -- words


def is_negative_number(word: str) -> bool:
    """Whether argparse takes a word with a leading `-` for a value."""
    return bool(_NEGATIVE.match(word))


def converted(flag: Flag, word: str) -> dict[str, Any]:
    """Convert `word` as upstream's parser would: a `value` or a `refusal`; empty if that takes its packages."""
    if flag.type not in _PYTHON:
        return _converted(flag.type_source, word) if flag.type_source else {}
    try:
        return {"value": _PYTHON[flag.type](word)}
    except ValueError as exc:
        return {"refusal": str(exc)}


@functools.lru_cache(maxsize=1024)
def _converted(source: str, word: str) -> dict[str, Any]:
    return _ask(["convert"], "a type function", stdin=json.dumps([source, word]))


def refusal(flag: Flag, word: str) -> str | None:
    """Return why upstream's parser would refuse `word`, or None."""
    return converted(flag, word).get("refusal")


def is_choice(flag: Flag, word: str) -> bool:
    """Whether the converted `word` is one of the flag's choices."""
    found = converted(flag, word)
    return "value" not in found or found["value"] in (flag.choices or ())
