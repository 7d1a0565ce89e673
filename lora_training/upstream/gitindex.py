"""The submodule commits in a repository's index, without starting git.

The format is `gitformat-index(5)`. What is not plain versions 2 or 3 with SHA-1 (a split or sparse index, version 4)
is left to git: the answer is None.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_HEADER = struct.Struct(">4sII")
_EXTENSION = struct.Struct(">4sI")
_ENTRY = 62  # ten numbers, a SHA-1, flags
_MODE, _ID, _FLAGS = (24, 28), (40, 60), (60, 62)
_GITLINK = 0o160000
_EXTENDED = 0x4000
_CHECKSUM = 20


def gitlinks(index: Path) -> dict[str, str] | None:
    """The pinned commit of each submodule by its path, or None where git itself must be asked."""
    try:
        data = index.read_bytes()
        signature, version, count = _HEADER.unpack_from(data)
        if signature != b"DIRC" or version not in {2, 3}:
            return None
        found, at = _entries(data, count)
        return found if _only_optional_extensions(data, at) else None
    except (OSError, struct.error, ValueError):
        return None


def _entries(data: bytes, count: int) -> tuple[dict[str, str], int]:
    found = {}
    at = _HEADER.size
    for _ in range(count):
        mode, flags = (int.from_bytes(data[at + start : at + end], "big") for start, end in (_MODE, _FLAGS))
        name_at = at + _ENTRY + (2 if flags & _EXTENDED else 0)
        end = data.index(b"\0", name_at)
        if mode == _GITLINK:
            found[data[name_at:end].decode("utf-8", "surrogateescape")] = data[at + _ID[0] : at + _ID[1]].hex()
        # names are padded with one to eight zeros
        at += (end - at) // 8 * 8 + 8
    return found, at


def _only_optional_extensions(data: bytes, at: int) -> bool:
    """Whether the file ends where it should, with nothing that changes what the entries mean (lower-case names do)."""
    while at < len(data) - _CHECKSUM:
        name, size = _EXTENSION.unpack_from(data, at)
        if not name[:1].isupper():
            return False
        at += _EXTENSION.size + size
    return at == len(data) - _CHECKSUM
