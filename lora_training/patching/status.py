"""`lora patch status`: where each upstream stands, without a judgement."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lora_training.errors import PatchError
from lora_training.patching import edits, lockfile, site, standing
from lora_training.patching.stack import PRISTINE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lora_training.patching.series import Target
    from lora_training.patching.stack import Stack
    from lora_training.workspace import Workspace


@dataclass(frozen=True)
class Row:
    """One upstream: `step` of `last` patches are in (None: files differ).

    `drifted` files are at no step, `patched` ones at a step that is not the pristine one. `edited` files are all that
    are neither upstream's nor made by our patches; `cure` says what to do about them.
    """

    name: str
    commit: str | None
    pin: str
    step: int | None
    last: int
    drifted: tuple[str, ...]
    patched: tuple[str, ...] = ()
    problem: str | None = None
    edited: tuple[str, ...] = ()
    cure: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def line(self) -> str:
        """For people."""
        if self.problem:
            return f"{self.name}: {self.problem}"
        at = "at its pin" if self.commit == self.pin else f"NOT at its pin {self.pin[:12]}"
        step = "files at different steps" if self.step is None else f"{self.step} of {self.last} patches in"
        return f"{self.name}: {(self.commit or 'unknown')[:12]}, {at}, {step}{edits.told(self.edited, self.cure)}"


def read(workspace: Workspace, targets: Sequence[Target]) -> list[Row]:
    """Look every upstream up. Raises PatchError when the lock itself cannot be read."""
    with site.together(site.of_workspace(workspace)):
        stacks = lockfile.read(workspace.patches)
        return [_row(target, stacks) for target in targets]


def _row(target: Target, stacks: dict[str, Stack]) -> Row:
    try:
        stack_ = standing.locked(target, stacks)
        item = standing.stand(target, stack_)
    except PatchError as exc:
        return Row(target.name, target.commit, target.pin, None, 0, (), problem=exc.message)
    position = item.position
    patched = tuple(path for path, steps in position.steps.items() if steps and PRISTINE not in steps)
    edited = edits.find(item)
    cure = edits.cure(item, edited) if edited else None
    at = (target.commit, target.pin, position.common, stack_.last)
    return Row(target.name, *at, position.drifted, patched, edited=edited, cure=cure)
