"""The list of runtime patches that are disabled in a checkout: one name per line, in a file beside the patches."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

FILE = "runtime.without"
_HEAD = "# Runtime patches that this checkout does without; `lora upstream bump` writes them down.\n"


def read(patches: Path) -> tuple[str, ...]:
    """Return the names in the folder `patches` of a checkout; none if the file does not exist."""
    try:
        lines = (patches / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ()
    return tuple(name for line in lines if (name := line.split("#")[0].strip()))


def render(names: Iterable[str]) -> bytes:
    """Return the content of the file."""
    return (_HEAD + "".join(f"{name}\n" for name in sorted(set(names)))).encode()
