"""Edits: what lies in a tree that is neither upstream's nor made by our patches. Every command asks here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_training.errors import PatchError
from lora_training.patching.names import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lora_training.patching.standing import Standing

_SHOWN = 5


def find(item: Standing) -> tuple[str, ...]:
    """Every edited file of a tree: changed against its commit, and not as a step of the series leaves it."""
    patched = {path for path, steps in item.position.steps.items() if steps}
    # at another commit than its pin, a tree's files are not those that the lock is for
    drifted = item.position.drifted if item.target.commit == item.target.pin else ()
    return tuple(sorted({*drifted, *item.target.changed()} - patched))


def outside(item: Standing, edited: Sequence[str]) -> tuple[str, ...]:
    """Those edited files that no patch touches."""
    return tuple(path for path in edited if path not in item.position.steps)


def sentence(edited: Sequence[str]) -> str:
    """Name the edited files, the first few of them."""
    more = f" and {len(edited) - _SHOWN} more" if edited[_SHOWN:] else ""
    return f"edits that are no patch of ours: {', '.join(map(shown, edited[:_SHOWN]))}{more}"


def told(edited: Sequence[str], cure_: str | None) -> str:
    """The edited files and their cure for people: the rest of a line, and lines below it; empty without a cure."""
    return "\n  ".join([f", {sentence(edited)}", *cure_.splitlines()]) if cure_ else ""


def cure(item: Standing, edited: Sequence[str]) -> str:
    """What to do about edited files, a line for each way out."""
    name = item.target.name
    drop = f"throw them away: `lora upstream sync {name} --discard-edits`, then `lora patch apply`"
    if not _are_known(item, edited):
        return drop
    return (
        "keep them in FILE as a patch: `lora patch revert --keep-edits FILE`, then `lora patch apply`\n"
        f"make them a patch of the series of {name}: `lora patch new {name} TITLE`\n{drop}"
    )


def _are_known(item: Standing, edited: Sequence[str]) -> bool:
    """Whether the pristine content of each is at hand: of a tree without a repository, that of patched files alone."""
    if item.target.manifest is None:
        return True
    manifest = item.target.manifest()
    return all(path not in manifest for path in outside(item, edited))


def refuse(item: Standing, edited: Sequence[str]) -> None:
    """Raise PatchError when there are edits."""
    if edited:
        raise PatchError(f"{item.target.name} has {sentence(edited)}", hint=cure(item, edited))
