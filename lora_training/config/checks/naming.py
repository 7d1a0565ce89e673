"""The name of what is trained, which names files and folders and stands in commands."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lora_training.config.checks.view import View
    from lora_training.config.model import Problem

# file systems take 255 bytes, of which upstream and we need some for what follows the name
_LONGEST = 200


def problems(view: View) -> Iterator[Problem]:
    """An `output_name` that is no file's name, or one that a command would take for something else."""
    name = view.value("output_name")
    wrong = reason(name) if view.given("output_name") and isinstance(name, str) else None
    if wrong:
        yield view.problem(f"`output_name` cannot be {shown(name)}", "output_name", hint=wrong)


def reason(name: str) -> str | None:
    """Why a run cannot have that name."""
    if not name or "/" in name:
        return "it is the name of a file, without a folder"
    if name.startswith("-"):
        return "a name that begins with `-` is taken for an option"
    if any(unicodedata.category(char) == "Cc" for char in name):
        return "a name has no control characters, such as the end of a line"
    return f"a name has {_LONGEST} bytes at most" if _bytes(name) > _LONGEST else None


def shown(name: str) -> str:
    """The name as a message says it."""
    return repr(name) if len(name) <= _LONGEST else f"{name[:20]!r}... ({_bytes(name)} bytes)"


def _bytes(name: str) -> int:
    # a name from the command line may hold bytes that are no text
    return len(name.encode("utf-8", "surrogatepass"))
