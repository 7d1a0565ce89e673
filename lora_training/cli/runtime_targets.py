"""The runtime patches' part in `lora patch verify`: whether what they change is what they were made for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import lora_training

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lora_training.patching.verify import Problem
    from lora_training.workspace import Workspace

_UPSTREAM = "sd-scripts"
_PACKAGE = Path(lora_training.__file__).resolve().parent


def problems(here: Workspace) -> list[Problem]:
    """What is wrong with their targets, in the upstream's tree and in the packages that are installed here."""
    from lora_training.patching.verify import Problem
    from lora_training.runtime import registry

    if not are_checked(here):
        return []
    found = registry.check(_tree(here), cache=here.cache / "checked")
    return [Problem(_UPSTREAM, str(each), cure(each.patch)) for each in found]


def cure(name: str) -> str:
    """What to do about a runtime patch that does not fit."""
    return (
        "bring the packages and the trees to what is pinned: `make setup`, `lora patch verify`\n"
        f"train without it, where the training can do without: `--set runtime.{name}=false`\n"
        f"take it out of this checkout: `lora upstream bump {_UPSTREAM} HEAD --accept --without {name}`"
    )


def refuse_unfit(tree: Path, names: Iterable[str], cache: Path | None) -> None:
    """Raise PatchError for the first of those runtime patches that does not fit what it changes in `tree`."""
    from lora_training.errors import PatchError
    from lora_training.runtime import registry

    found = registry.check(tree, names, cache)
    if found:
        others = sorted({each.patch for each in found[1:]} - {found[0].patch})
        more = f"; nor do {', '.join(others)}" if others else ""
        raise PatchError(f"a runtime patch does not fit: {found[0]}{more}", hint=cure(found[0].patch))


def are_checked(here: Workspace) -> bool:
    """Whether the patches of this package are the checkout's, and there is a tree for them to be for."""
    return here.root.resolve() == _PACKAGE.parent and (_tree(here) / "library").is_dir()


def _tree(here: Workspace) -> Path:
    return here.root / "third_party" / _UPSTREAM
