"""Import bitsandbytes on first use.

Where it is installed, diffusers imports it at each start, and it imports PyTorch's compiler: seconds that only an 8-bit
optimizer needs. Here the import returns a module that loads itself on the first access to an attribute.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from lora_training.runtime.model import RuntimePatch, Target

_PACKAGE = "bitsandbytes"


class _Lazy(ModuleType):
    """A package that was found but not executed. Attributes that the import system sets, such as `__file__`, are there.

    importlib's LazyLoader does not help: it loads on access to `__file__`, and `inspect` reads that of every module.
    """

    def __getattr__(self, name: str) -> Any:
        own = vars(self)
        loader, own["__path__"] = own.pop("__lora_hidden__")
        object.__setattr__(self, "__class__", ModuleType)
        loader.exec_module(self)
        return getattr(self, name)


class _LazyLoader(Loader):
    """Postpones the execution of a module by the given loader."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def exec_module(self, module: ModuleType) -> None:
        """Hide `__path__`, so that importing a submodule triggers the load, too."""
        vars(module)["__lora_hidden__"] = self._loader, vars(module).pop("__path__")
        object.__setattr__(module, "__class__", _Lazy)


class _Here(Loader):
    """Loader for a submodule that its package has already imported during the search for it."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module that is already imported."""
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module was executed before."""


class _Finder(MetaPathFinder):
    """Finder for bitsandbytes only, in its usual place."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the package's spec with a lazy loader."""
        if fullname == _PACKAGE and (spec := PathFinder.find_spec(fullname, path)) and spec.loader:
            spec.loader = _LazyLoader(spec.loader)
            return spec
        if fullname.startswith(f"{_PACKAGE}.") and fullname in sys.modules:
            return ModuleSpec(fullname, _Here())
        return None


def _prepare() -> None:
    sys.meta_path.insert(0, _Finder())


PATCH = RuntimePatch(
    name="lazy-bitsandbytes",
    reason="Each start imports PyTorch's compiler, seconds of work, because bitsandbytes is installed, used or not.",
    upstream_version="v0.11.1",
    verification="tests/runtime/test_lazy_bitsandbytes.py",
    removal_condition="bitsandbytes or diffusers imports the other's compiler only when it is used",
    # verifies that bitsandbytes is still used inside of functions alone
    targets=(Target("diffusers.quantizers.bitsandbytes.utils", "_replace_with_bnb_linear", "2dd018b1807c4562"),),
    prepare=_prepare,
    on_by_default=True,
)
