"""The runtime patches' part in `lora patch verify`: whether what they change is what they were made for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import lora_training

if TYPE_CHECKING:
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
    mend = "`make setup`; or switch the patch off in [runtime]"
    found = registry.check(_tree(here), cache=here.cache / "checked")
    return [Problem(_UPSTREAM, str(each), mend) for each in found]


def are_checked(here: Workspace) -> bool:
    """Whether the patches of this package are the checkout's, and there is a tree for them to be for."""
    return here.root.resolve() == _PACKAGE.parent and (_tree(here) / "library").is_dir()


def _tree(here: Workspace) -> Path:
    return here.root / "third_party" / _UPSTREAM
