"""`lora patch revert --keep-edits`: what was edited in a tree, as a patch of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_training.errors import PatchError
from lora_training.patching import differ, edits, fs, plan, relock, standing, tree
from lora_training.patching.names import shown
from lora_training.patching.standing import COPY, Standing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def save(found: Sequence[Standing], edited: Sequence[Sequence[str]], file: Path) -> None:
    """Write the edits in each tree as a patch: those of one tree to `file`, of several to `STEM-UPSTREAM.SUFFIX` each.

    Raises PatchError when such a file is there already, and for edits that no patch can hold; nothing is written then.
    """
    trees = [(item, paths) for item, paths in zip(found, edited, strict=True) if paths]
    patches = {}
    for item, paths in trees:
        path = file if len(trees) == 1 else file.with_name(f"{file.stem}-{item.target.name}{file.suffix}")
        if path.exists():
            raise PatchError(f"{path} is there already", hint="name another file for the edits")
        patches[path] = of(item, paths)
    for path, data in patches.items():
        fs.replace_file(path, data)


def of(item: Standing, edited: Sequence[str]) -> bytes:
    """The edits in one tree: from what the series makes of a file that has a copy, from the pristine file otherwise."""
    outside = edits.outside(item, edited)
    base = relock.pristine(item.target, item.stack, [*item.stack.paths, *outside])
    now = {**item.image, **tree.snapshot(item.target.root, outside)}
    _check_files(item, {path: now[path] for path in edited})
    patched = [path for path in edited if path not in outside and _was_patched(item, path)]
    final = standing.final(item, base)[0] if patched else base
    before: plan.Image = {path: (final if path in patched else base).get(path) for path in edited}
    return differ.diff(before, {path: now[path] for path in before})


def _check_files(item: Standing, now: plan.Image) -> None:
    """Git names a folder only where another repository lies in it."""
    folders = [path for path, node in now.items() if path.endswith("/") or (node and node.is_folder)]
    if folders:
        raise PatchError(
            f"{item.target.name}: {shown(folders[0])} is a folder, which no patch can hold",
            hint="nothing was written; move it away and run this again",
        )


def _was_patched(item: Standing, path: str) -> bool:
    """A copy shows it; a file that a patch makes, and that is there, needs none."""
    return item.image.get(path + COPY) is not None or item.stack.state(path, 0) == "absent"
