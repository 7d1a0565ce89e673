"""The runtime patches we have, and how the chosen ones come into the process."""

from __future__ import annotations

import pkgutil
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import wrapt

from lora_training.errors import PatchError
from lora_training.runtime import patches, source

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType


@dataclass(frozen=True)
class Target:
    """A piece of upstream that a patch changes: a name in a module, and the digest of its source at the pin."""

    module: str
    name: str
    digest: str


class RuntimePatch(Protocol):
    """What a module in `runtime/patches` offers; adding a patch is adding such a module.

    `NAME` is the name in `[runtime]`. `install` gets each target's module, right after its import, and the settings.
    """

    NAME: str
    REASON: str
    TARGETS: tuple[Target, ...]

    def install(self, module: ModuleType, settings: Mapping[str, Any]) -> None:
        """Make the change in `module`."""


def available() -> dict[str, RuntimePatch]:
    """Every runtime patch, by its name."""
    names = sorted(info.name for info in pkgutil.iter_modules(patches.__path__))
    modules: list[Any] = [import_module(f"{patches.__name__}.{name}") for name in names]
    return {module.NAME: module for module in modules}


def install(chosen: Mapping[str, Mapping[str, Any]]) -> None:
    """Have each chosen patch installed when its target modules are imported.

    `chosen` maps names to settings. Raises PatchError for a name that is not there; the import of a target whose
    source is not the one at the pin raises it too.
    """
    known = available()
    for name, settings in chosen.items():
        if name not in known:
            raise PatchError(f"there is no runtime patch named {name!r}", hint=f"there are: {', '.join(known)}")
        for module in dict.fromkeys(target.module for target in known[name].TARGETS):
            wrapt.register_post_import_hook(_hook(known[name], settings), module)


def _hook(patch: RuntimePatch, settings: Mapping[str, Any]) -> Callable[[ModuleType], None]:
    def hook(module: ModuleType) -> None:
        for target in patch.TARGETS:
            if target.module == module.__name__:
                _check(patch, target, module)
        patch.install(module, settings)
        sys.stderr.write(f"lora: runtime patch {patch.NAME} installed in {module.__name__}\n")

    return hook


def _check(patch: RuntimePatch, target: Target, module: ModuleType) -> None:
    found = source.digest(Path(str(module.__file__)).read_text(encoding="utf-8"), target.name)
    if found != target.digest:
        what = "is missing" if found is None else "is not what it was at the pin"
        raise PatchError(
            f"runtime patch {patch.NAME}: {target.name} in {module.__file__} {what}",
            hint="bring the tree to its pin (`lora upstream status`) or switch the patch off in [runtime]",
        )
