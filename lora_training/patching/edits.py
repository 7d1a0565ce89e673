"""`lora patch revert --keep-edits`: what was changed by hand in patched files, as a patch of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_training.errors import PatchError
from lora_training.patching import differ, fs, plan, relock, standing
from lora_training.patching.standing import COPY, Standing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def save(found: Sequence[Standing], file: Path) -> tuple[Path, ...]:
    """Write the edits in each drifted tree as a patch; the files written, none when nothing drifted.

    One drifted tree goes to `file`, several to `STEM-UPSTREAM.SUFFIX` each.
    Raises PatchError when such a file is there already.
    """
    drifted = [item for item in found if item.position.drifted]
    written = []
    for item in drifted:
        path = file if len(drifted) == 1 else file.with_name(f"{file.stem}-{item.target.name}{file.suffix}")
        if path.exists():
            raise PatchError(f"{path} is there already", hint="name another file for the edits")
        fs.replace_file(path, of(item))
        written.append(path)
    return tuple(written)


def of(item: Standing) -> bytes:
    """The edits in one tree: from what the series makes of a file that has a copy, from the pristine file otherwise."""
    base = relock.pristine(item.target, item.stack, item.stack.paths)
    patched = [path for path in item.position.drifted if _was_patched(item, path)]
    final = standing.final(item, base)[0] if patched else base
    before: plan.Image = {path: (final if path in patched else base).get(path) for path in item.position.drifted}
    return differ.diff(before, {path: item.image[path] for path in before})


def _was_patched(item: Standing, path: str) -> bool:
    """A copy shows it; a file that a patch makes, and that is there, needs none."""
    return item.image.get(path + COPY) is not None or item.stack.state(path, 0) == "absent"
