"""Folders that patches make or empty: as they were before, so that a revert leaves them as it found them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from lora_training.patching import names, tree
from lora_training.patching.edit import Edit
from lora_training.patching.model import REGULAR, Node
from lora_training.patching.plan import folders_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lora_training.patching.site import Site

NAME = "folders.json"

# The permission bits of each folder, None where there was none.
Folders = dict[str, "int | None"]


def before(disk: Mapping[str, Node | None], written: Mapping[str, Node | None]) -> Folders:
    """What `disk` has of the folders that come and go when `written` is written to it."""
    needed = folders_of(path for path, node in written.items() if node)
    left = folders_of(path for path, node in written.items() if not node) - needed
    found: Folders = {path: None for path in needed if (bits := _bits(disk, path)) is None}
    found |= {path: bits for path in left if (bits := _bits(disk, path)) is not None}
    replaced = tuple(f"{path}/" for path, node in written.items() if node and _bits(disk, path) is not None)
    inside = (path for path in disk if f"{path}/".startswith(replaced))
    return found | {path: bits for path in inside if (bits := _bits(disk, path)) is not None}


def _bits(disk: Mapping[str, Node | None], path: str) -> int | None:
    node = disk.get(path)
    return node.permissions if node is not None and node.is_folder else None


def read(content: Any) -> Folders:
    """Folders as JSON has them. Raises ValueError for anything else."""
    if not isinstance(content, dict) or any(names.problem(path) for path in content):
        raise ValueError("folders that no patch may make")
    if not all(bits is None or (type(bits) is int and 0 <= bits <= 0o7777) for bits in content.values()):  # noqa: PLR2004
        raise ValueError("permissions that no folder may have")
    return content


def recall(here: Site) -> dict[str, Folders]:
    """The folders of each upstream as they were before its patches; without those that cannot be read."""
    node = tree.read(here.root, _path(here))
    try:
        content = json.loads(node.data) if node is not None else {}
        return {str(name): read(known) for name, known in content.items()}
    except (AttributeError, RecursionError, ValueError):
        # the state folder may be deleted: a revert then takes away the folders that it empties
        return {}


def remember(here: Site, known: Mapping[str, Folders]) -> Edit:
    """The edit that writes down what `recall` gives."""
    after = Node(REGULAR, json.dumps(known, indent=1).encode()) if known else None
    return Edit(_path(here), tree.read(here.root, _path(here)), after)


def _path(here: Site) -> str:
    return os.path.relpath(here.state / NAME, here.root)
