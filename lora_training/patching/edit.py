"""A file to change, as a transaction takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_training.patching.model import Node


@dataclass(frozen=True)
class Edit:
    """One file to change. `before` is what was read there. `same_as` names a file that already is what `after` says."""

    path: str
    before: Node | None
    after: Node | None
    same_as: str | None = None
