"""The series of an upstream for another commit: rehearse it in memory, and write what came of it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_training.errors import PatchError
from lora_training.patching import carry, differ, fs, header, lockfile, relock, series, tree
from lora_training.patching.carry import Carried, NewTree

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lora_training.patching.series import SeriesPatch, Target
    from lora_training.workspace import Workspace


@dataclass(frozen=True)
class Rehearsed:
    """A series carried over: its patches as they were, and what became of each."""

    items: tuple[SeriesPatch, ...]
    carried: tuple[Carried, ...]

    @property
    def conflicts(self) -> tuple[carry.HunkReport, ...]:
        """The hunks that found no place."""
        return tuple(hunk for patch in self.carried for hunk in patch.hunks if hunk.fate == "conflict")


def rehearse(workspace: Workspace, target: Target, new: Path, paths: Sequence[str]) -> Rehearsed:
    """Carry the series of `target`, which is at its pin, over to the tree `new` with its files `paths`.

    Writes nothing. Raises PatchError when the series does not fit the tree that it is for.
    """
    series.check_at_pin(target)
    items = series.read(target.patches)
    touched = list(dict.fromkeys(path for item in items for path in item.patch.paths))
    old = relock.pristine(target, lockfile.read(workspace.patches).get(target.name), touched)
    carried = carry.carry([item.patch for item in items], old, NewTree(paths, lambda path: tree.read(new, path)))
    return Rehearsed(items, tuple(carried))


def write(target: Target, rehearsed: Rehearsed, version: str) -> tuple[str, ...]:
    """Rewrite the series for its new commit; the names of patches that are not needed any more, which go.

    Raises PatchError when there are conflicts; nothing is written then.
    """
    check(rehearsed)
    pairs = list(zip(rehearsed.items, rehearsed.carried, strict=True))
    for item, carried in pairs:
        if carried.is_needed:
            fs.replace_file(target.patches / item.name, _rendered(item, carried, version))
    dropped = tuple(item.name for item, carried in pairs if not carried.is_needed)
    if dropped:
        listed = [name for name in series.names(target.patches) if name not in dropped]
        fs.replace_file(target.patches / series.SERIES, "".join(f"{name}\n" for name in listed).encode())
        for name in dropped:
            fs.remove(target.patches / name)
    return dropped


def check(rehearsed: Rehearsed) -> None:
    """Raise PatchError when a hunk found no place."""
    if rehearsed.conflicts:
        first = rehearsed.conflicts[0]
        raise PatchError(
            f"hunks without a place there: {len(rehearsed.conflicts)}; "
            f"the first is {first.patch}, line {first.line}: {first.note}",
            hint="nothing was changed; rewrite those patches for the new version, or take them out of the series",
        )


def _rendered(item: SeriesPatch, carried: Carried, version: str) -> bytes:
    today = dt.datetime.now(tz=dt.timezone.utc).date().isoformat()
    fields = {**item.fields, "Last-Update": today, "Upstream-Version": version}
    return header.render(fields) + differ.diff(carried.before, carried.after)
