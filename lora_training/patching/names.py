"""File names in patches: git's quoting, stripping, and which names no patch may have."""

from __future__ import annotations

import re

from lora_training import printable
from lora_training.errors import PatchError

DEV_NULL = "/dev/null"
STATE_FOLDER = ".lora-patch"
# Linux's limits, in bytes; a path's has a zero byte at its end.
PATH_MAX = 4096
NAME_MAX = 255
_MUCH = 200  # of a name, in a message

_ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(rb"\\([0-3][0-7]{2}|.)", re.DOTALL)

# What HFS+ leaves out of a name, so that `.g<ZWNJ>it` is `.git` there (git's own list, utf8.c).
_IGNORABLE = {*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF}
_DOTS = {"": "has an empty part", ".": "has an empty part", "..": "leaves the tree"}
_GIT_SHORT = re.compile(r"git~[0-9]+")
_DEVICES = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])", re.IGNORECASE)
_SLASHES = re.compile("//+")
_DRIVE = re.compile(r"[A-Za-z]:")


def text(raw: bytes) -> str:
    """A name's bytes as Python's file functions take them; the way back is `raw`."""
    return raw.decode("utf-8", "surrogateescape")


def raw(name: str) -> bytes:
    """The bytes of a name."""
    return name.encode("utf-8", "surrogateescape")


def unquote(quoted: bytes) -> tuple[bytes, bytes]:
    """Read git's C-style `"name"` at the start: the name, and what follows. Raises ValueError when it is broken."""
    match = _QUOTED.match(quoted)
    if not match:
        raise ValueError("an unfinished quoted name")
    return _ESCAPE.sub(_unescape, match[1]), quoted[match.end() :]


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1].decode("latin-1")
    if len(code) == 3:  # noqa: PLR2004 - an octal escape is three digits
        return bytes([int(code, 8)])
    if code not in _ESCAPES:
        raise ValueError(f"an unknown escape \\{code} in a quoted name")
    return bytes([_ESCAPES[code]])


def shown(name: str) -> str:
    """A name for people and JSON: as it is, or quoted as git would when it has hidden or undecodable characters."""
    if printable.is_plain(name) and '"' not in name:
        return name
    escapes = {code: f"\\{letter}" for letter, code in _ESCAPES.items()}
    return '"' + "".join(escapes.get(b) or (chr(b) if 32 <= b < 127 else f"\\{b:03o}") for b in raw(name)) + '"'  # noqa: PLR2004 - printable ASCII


def strip(name: str, levels: int) -> str | None:
    """`name` without its first `levels` folders, still to be checked, or None when it has too few."""
    parts = name.split("/", levels)
    if "" in parts[:levels]:
        # git and GNU patch count a run of slashes in two ways
        return name
    return _SLASHES.sub("/", parts[levels]) if len(parts) > levels else None


def check(name: str, where: str) -> None:
    """Refuse a name that could reach outside the tree, into `.git`, or to a device. Raises PatchError."""
    what = problem(name)
    if what:
        brief = name if len(name) <= _MUCH else f"{name[:_MUCH]}..."
        raise PatchError(f"{where}: the name {shown(brief)} {what}", hint="nothing was written")


def problem(name: str) -> str | None:
    """What makes this a name that no patch may have, as the end of a sentence; None when nothing does."""
    if not name:
        return "is empty"
    if len(name) >= PATH_MAX or len(raw(name)) >= PATH_MAX:
        return f"is longer than the {PATH_MAX - 1} bytes that a path may have"
    if name.startswith("/") or _DRIVE.match(name):
        return "is absolute"
    if "\0" in name:
        return "holds a zero byte"
    if "\\" in name:
        return "holds a backslash, which separates folders on Windows"
    return next((what for part in name.split("/") if (what := _part_problem(part))), None)


def _part_problem(part: str) -> str | None:
    if part in _DOTS:
        return _DOTS[part]
    if len(raw(part)) > NAME_MAX:
        return f"has a part longer than {NAME_MAX} bytes"
    if is_git_folder(part):
        return "reaches into .git"
    if part.casefold() == STATE_FOLDER:
        return f"reaches into {STATE_FOLDER}"
    if _DEVICES.fullmatch(part.split(".", maxsplit=1)[0].split(":", maxsplit=1)[0].rstrip(" ")):
        return "is a device on Windows"
    return None


def is_git_folder(part: str) -> bool:
    """Whether some file system takes this name for `.git`: case, HFS+'s ignored characters, NTFS's aliases."""
    plain = "".join(c for c in part if ord(c) not in _IGNORABLE).casefold()
    plain = plain.split(":")[0].rstrip(" .")
    return plain == ".git" or bool(_GIT_SHORT.fullmatch(plain))
