"""Start a child process to read the flags of upstream's scripts."""

from __future__ import annotations

import functools
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_training import proc
from lora_training.config.schema.shapes import STYLE_KEYS
from lora_training.config.schema.source import digest, read_bytes
from lora_training.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TIMEOUT_S = 60.0
_CHILD = Path(__file__).with_name("child.py")
# standard library only; compiled files are neither read nor written in upstream's tree
_ALONE = ("-I", "-S", "-B", "-X", f"pycache_prefix={os.devnull}", "-W", "ignore")
_NOTHING: dict[str, Any] = {"keys": {}, "required": []}
_NO_DATASETS = {"general": _NOTHING, "styles": {"dreambooth": {"dataset": _NOTHING, "subset": _NOTHING}}}


@dataclass(frozen=True)
class Answer:
    """The flags of each script and the dataset tables as JSON values, and the files of the tree that they depend on."""

    flags: dict[str, list[dict[str, Any]]]
    datasets: dict[str, Any]
    looked_at: tuple[str, ...]


def read(tree: Path, scripts: Sequence[str]) -> Answer:
    """Return the flags of `scripts`. Raises UpstreamError, naming file and line, if one cannot be read."""
    data = _ask(["read", str(tree.absolute()), json.dumps(STYLE_KEYS), *scripts], f"the flags of {tree}")
    flags = {name: _value(found, f"setup_parser() of {name}.py") for name, found in data["scripts"].items()}
    datasets = _value(data["datasets"], "the dataset schema of library/config_util.py")
    return Answer(flags, datasets or _NO_DATASETS, tuple(data["looked_at"]))


def read_parsers(tree: Path, scripts: Sequence[str]) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """Return description and flags of each of the scripts, by its path without `.py`, and the files they depend on."""
    data = _ask(["parsers", str(tree.absolute()), *scripts], f"the arguments of {', '.join(scripts)}")
    found = {name: _value(told, f"the arguments of {name}.py") for name, told in data["scripts"].items()}
    return found, tuple(data["looked_at"])


def digests(tree: Path, paths: Iterable[str]) -> dict[str, str | None]:
    """Return the sha256 of each path in the tree; None for a missing file."""
    return {path: digest(read_bytes(tree / path)) for path in paths}


@functools.lru_cache(maxsize=1024)
def convert(source: str, word: str) -> tuple[str, Any]:
    """Call a type function: return `value` and the result, `refusal` and a message, or `unknown` and None."""
    answer = _ask(["convert"], "a type function", stdin=json.dumps([source, word]))
    return next(iter(answer.items()), ("unknown", None))


def _ask(words: Sequence[str], what: str, stdin: str | None = None) -> dict[str, Any]:
    try:
        done = proc.run([sys.executable, *_ALONE, str(_CHILD), *words], cwd=Path("/"), stdin=stdin, timeout_s=TIMEOUT_S)
        answer: dict[str, Any] = json.loads(done.stdout)
    except (proc.ProcError, ValueError) as exc:
        raise UpstreamError(f"cannot read {what}", hint=getattr(exc, "hint", None) or str(exc)) from exc
    return answer


def _value(found: dict[str, Any], what: str) -> Any:
    if "error" in found:
        raise UpstreamError(f"cannot read {what}: {found['error']}")
    return found["value"]
