"""Import bitsandbytes when something of it is used, and not before.

Wherever it is installed, diffusers imports it at each start, and it imports PyTorch's compiler: seconds for what an
8-bit optimizer alone needs. Here the import gives a module that loads itself at the first look inside.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lora_training.runtime.model import NoSettings, RuntimePatch, Target

if TYPE_CHECKING:
    from collections.abc import Sequence

_PACKAGE = "bitsandbytes"


class _Lazy(ModuleType):
    """A package that has been found and not run. It shows what import gave it, such as `__file__` and `__spec__`.

    Not importlib's LazyLoader: that one loads at a look at `__file__`, which `inspect` takes of every module there is.
    """

    def __getattr__(self, name: str) -> Any:
        own = vars(self)
        loader, own["__path__"] = own.pop("__lora_hidden__")
        object.__setattr__(self, "__class__", ModuleType)
        loader.exec_module(self)
        return getattr(self, name)


class _LazyLoader(Loader):
    """Leaves the running for later, to the loader that it is given."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def exec_module(self, module: ModuleType) -> None:
        """Hide the path, so that the import of a submodule is a look inside, too."""
        vars(module)["__lora_hidden__"] = self._loader, vars(module).pop("__path__")
        object.__setattr__(module, "__class__", _Lazy)


class _Here(Loader):
    """For a submodule that its package has brought while import was looking for it."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The one that is there."""
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """It has been run."""


class _Finder(MetaPathFinder):
    """Finds that one package, where everybody else would find it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Its spec with a lazy loader."""
        if fullname == _PACKAGE and (spec := PathFinder.find_spec(fullname, path)) and spec.loader:
            spec.loader = _LazyLoader(spec.loader)
            return spec
        if fullname.startswith(f"{_PACKAGE}.") and fullname in sys.modules:
            return ModuleSpec(fullname, _Here())
        return None


def _prepare() -> None:
    sys.meta_path.insert(0, _Finder())


def _install(_module: ModuleType, _settings: NoSettings) -> None:
    """The module is only looked at: that it still uses bitsandbytes in its functions alone."""


PATCH = RuntimePatch(
    name="lazy-bitsandbytes",
    reason="Each start imports PyTorch's compiler, seconds of work, because bitsandbytes is installed, used or not.",
    upstream_version="v0.11.1",
    verification="tests/runtime/test_lazy_bitsandbytes.py",
    removal_condition="bitsandbytes or diffusers imports the other's compiler only when it is used",
    targets=(Target("diffusers.quantizers.bitsandbytes.utils", "_replace_with_bnb_linear", "2dd018b1807c4562"),),
    install=_install,
    prepare=_prepare,
    on_by_default=True,
)
