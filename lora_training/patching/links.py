"""Symbolic links that patches make: each stays in the tree and out of `.git`, whatever links it leads through."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_training.errors import PatchError
from lora_training.patching import names
from lora_training.patching.model import LINK, Node

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_MOST = 40  # links in a row, as in Linux


def problem(path: str, link: Node) -> str | None:
    """What makes the link at `path` one that no patch may make, as the end of a sentence; None when nothing does.

    Only the target's own words count, so `..` may only come first: after a folder, that may be a link by then.
    """
    target = names.text(link.data)
    parts = [part for part in target.split("/") if part not in {"", "."}]
    up = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    above = path.split("/")[:-1]
    if not target or target.startswith("/") or up > len(above):
        return "would point out of the tree"
    if ".." in parts[up:]:
        return "could point out of the tree, having `..` after a folder"
    # from the folder that `..` leads up to, and from the top
    ways = ("/".join(parts[up:]), "/".join([*above[: len(above) - up], *parts[up:]]))
    what = next((what for way in ways if way and (what := names.problem(way))), None)
    return f"would point at a name that {what}" if what else None


def check(paths: Iterable[str], image: Mapping[str, Node | None], root: Path) -> None:
    """Raise PatchError when a link that patches made at one of `paths` leads out by way of links in the tree."""
    for path in paths:
        node = image.get(path)
        if node is not None and node.is_link and _leads_out(path, node, image, root):
            what = f"the symbolic link {names.shown(path)} would lead out of the tree, or into .git, by another link"
            raise PatchError(what, hint="nothing was written")


def _leads_out(path: str, link: Node, image: Mapping[str, Node | None], root: Path) -> bool:
    at = path.split("/")[:-1]
    ahead = _parts(link)
    followed = 0
    while ahead:
        part = ahead.pop()
        if names.is_git_folder(part) or (part == ".." and not at):
            return True
        if part == "..":
            at.pop()
            continue
        found = _link("/".join([*at, part]), image, root)
        if found is None:
            at.append(part)
            continue
        followed += 1
        if followed > _MOST or found.data.startswith(b"/"):
            return True
        ahead += _parts(found)
    return False


def _parts(link: Node) -> list[str]:
    """The parts of a link's target, the last one first."""
    return [part for part in names.text(link.data).split("/")[::-1] if part not in {"", "."}]


def _link(path: str, image: Mapping[str, Node | None], root: Path) -> Node | None:
    """The link at `path`, None for anything else, as patches leave the tree."""
    if path in image:
        node = image[path]
        return node if node is not None and node.is_link else None
    try:
        return Node(LINK, names.raw(str((root / path).readlink())))
    except OSError:
        return None
