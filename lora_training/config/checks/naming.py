"""Check `output_name`, which is used in file names, folder names and commands."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lora_training.config.checks.view import View
    from lora_training.problems import Problem

# file systems allow 255 bytes; suffixes are appended to the name
_LONGEST = 200


def problems(view: View) -> Iterator[Problem]:
    """Report an `output_name` that is not a valid file name, or that a command would parse as an option."""
    name = view.value("output_name")
    wrong = reason(name) if view.given("output_name") and isinstance(name, str) else None
    if wrong:
        yield view.problem(f"`output_name` cannot be {shown(name)}", "output_name", hint=wrong)


def reason(name: str) -> str | None:
    """Return why a run cannot have this name, or None."""
    if not name or "/" in name:
        return "it is the name of a file, without a folder"
    if name.startswith("-"):
        return "a name that begins with `-` is taken for an option"
    if any(unicodedata.category(char) == "Cc" for char in name):
        return "a name has no control characters, such as the end of a line"
    return f"a name has {_LONGEST} bytes at most" if _bytes(name) > _LONGEST else None


def shown(name: str) -> str:
    """Return the name for use in a message, shortened if it is long."""
    return repr(name) if len(name) <= _LONGEST else f"{name[:20]!r}... ({_bytes(name)} bytes)"


def _bytes(name: str) -> int:
    # a name from the command line may have bytes that are not valid UTF-8
    return len(name.encode("utf-8", "surrogatepass"))
