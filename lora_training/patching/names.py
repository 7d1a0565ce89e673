"""File names and link targets in patches: git's quoting, stripping, and those that are refused."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from lora_training import printable
from lora_training.errors import PatchError
from lora_training.patching.model import LINK, Image, Node

DEV_NULL = "/dev/null"
STATE_FOLDER = ".lora-patch"
# Linux's limits, in bytes; a path's has a zero byte at its end.
PATH_MAX = 4096
NAME_MAX = 255
_MUCH = 200  # of a name, in a message

_ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:([0-3][0-7]{2})|(.))", re.DOTALL)
_PRINTABLE = range(32, 127)  # of ASCII

# Characters that HFS+ ignores in a name, so that `.g<ZWNJ>it` is `.git` there (git's own list, utf8.c).
_IGNORABLE = {*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF}
_DOTS = {"": "has an empty part", ".": "has an empty part", "..": "leaves the tree"}
_GIT_SHORT = re.compile(r"git~[0-9]+")
_DEVICES = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])", re.IGNORECASE)
_SLASHES = re.compile("//+")
_MOST_LINKS = 40  # in a row, as in Linux
_DRIVE = re.compile(r"[A-Za-z]:")


def unquote(quoted: bytes) -> tuple[bytes, bytes]:
    """Split git's C-style `"name"` from the text after it. Raises ValueError when it is malformed."""
    match = _QUOTED.match(quoted)
    if not match:
        raise ValueError("an unfinished quoted name")
    return _ESCAPE.sub(_unescape, match[1]), quoted[match.end() :]


def _unescape(match: re.Match[bytes]) -> bytes:
    if match[1]:
        return bytes([int(match[1], 8)])
    code = match[2].decode("latin-1")
    if code not in _ESCAPES:
        raise ValueError(f"an unknown escape \\{code} in a quoted name")
    return bytes([_ESCAPES[code]])


def shown(name: str) -> str:
    """A name for output: quoted as git does if it has hidden or undecodable characters."""
    if printable.is_plain(name) and '"' not in name:
        return name
    escapes = {code: f"\\{letter}" for letter, code in _ESCAPES.items()}
    return (
        '"' + "".join(escapes.get(b) or (chr(b) if b in _PRINTABLE else f"\\{b:03o}") for b in os.fsencode(name)) + '"'
    )


def strip(name: str, levels: int) -> str | None:
    """Remove the first `levels` folders from `name`, without checking the rest; None when it has too few."""
    parts = name.split("/", levels)
    if "" in parts[:levels]:
        # git and GNU patch count a run of slashes in two ways
        return name
    return _SLASHES.sub("/", parts[levels]) if len(parts) > levels else None


def check(name: str, where: str) -> None:
    """Raise PatchError for a name that could reach outside the tree, into `.git`, or to a device."""
    what = problem(name)
    if what:
        brief = name if len(name) <= _MUCH else f"{name[:_MUCH]}..."
        raise PatchError(f"{where}: the name {shown(brief)} {what}", hint="nothing was written")


def problem(name: str) -> str | None:
    """The reason to refuse a name in a patch, as the end of a sentence; None for an allowed name."""
    if not name:
        return "is empty"
    if len(name) >= PATH_MAX or len(os.fsencode(name)) >= PATH_MAX:
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
    if len(os.fsencode(part)) > NAME_MAX:
        return f"has a part longer than {NAME_MAX} bytes"
    if is_git_folder(part):
        return "reaches into .git"
    if part.casefold() == STATE_FOLDER:
        return f"reaches into {STATE_FOLDER}"
    if _DEVICES.fullmatch(part.split(".", maxsplit=1)[0].split(":", maxsplit=1)[0].rstrip(" ")):
        return "is a device on Windows"
    return None


def is_git_folder(part: str) -> bool:
    """Whether a file system may treat this name as `.git`: by case, HFS+'s ignored characters or NTFS's aliases."""
    plain = "".join(c for c in part if ord(c) not in _IGNORABLE).casefold()
    plain = plain.split(":")[0].rstrip(" .")
    return plain == ".git" or bool(_GIT_SHORT.fullmatch(plain))


def link_problem(path: str, link: Node) -> str | None:
    """The reason to refuse a symbolic link at `path`, as the end of a sentence; None for an allowed one.

    This looks at the target's text alone, so `..` may only come first: a folder before it could be a link.
    """
    target = os.fsdecode(link.data)
    parts = [part for part in target.split("/") if part not in {"", "."}]
    up = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    above = path.split("/")[:-1]
    if not target or target.startswith("/") or up > len(above):
        return "would point out of the tree"
    if ".." in parts[up:]:
        return "could point out of the tree, having `..` after a folder"
    # from the folder that `..` leads up to, and from the top
    ways = ("/".join(parts[up:]), "/".join([*above[: len(above) - up], *parts[up:]]))
    what = next((what for way in ways if way and (what := problem(way))), None)
    return f"would point at a name that {what}" if what else None


def check_links(paths: Iterable[str], image: Image, root: Path) -> None:
    """Raise PatchError when a link at one of `paths` leads out of the tree through other links."""
    for path in paths:
        node = image.get(path)
        if node is not None and node.is_link and _leads_out(path, node, image, root):
            what = f"the symbolic link {shown(path)} would lead out of the tree, or into .git, by another link"
            raise PatchError(what, hint="nothing was written")


def _leads_out(path: str, link: Node, image: Image, root: Path) -> bool:
    at = path.split("/")[:-1]
    ahead = _link_parts(link)
    followed = 0
    while ahead:
        part = ahead.pop()
        if is_git_folder(part) or (part == ".." and not at):
            return True
        if part == "..":
            at.pop()
            continue
        found = _link("/".join([*at, part]), image, root)
        if found is None:
            at.append(part)
            continue
        followed += 1
        if followed > _MOST_LINKS or found.data.startswith(b"/"):
            return True
        ahead += _link_parts(found)
    return False


def _link_parts(link: Node) -> list[str]:
    """The parts of a link's target in reverse order."""
    return [part for part in os.fsdecode(link.data).split("/")[::-1] if part not in {"", "."}]


def _link(path: str, image: Image, root: Path) -> Node | None:
    """The link at `path` in the patched tree, None for anything else."""
    if path in image:
        node = image[path]
        return node if node is not None and node.is_link else None
    try:
        return Node(LINK, os.fsencode(str((root / path).readlink())))
    except OSError:
        return None
