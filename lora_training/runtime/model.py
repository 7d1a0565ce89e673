"""The definition of a runtime patch, as data. Each module in `runtime/patches` offers one, as `PATCH`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType


@dataclass(frozen=True)
class Target:
    """A function, class or variable of upstream, or of an installed package, that a patch changes or relies on.

    `digest` is `source.digest` of `name` in `module` at the pin, with our patch files applied.
    """

    module: str
    name: str
    digest: str


@dataclass(frozen=True)
class Start:
    """How the training process was started: the script's flags and the environment."""

    flags: tuple[str, ...]
    environ: Mapping[str, str]

    def value(self, flag: str) -> str | None:
        """Return the argument that follows `flag` on the command line."""
        return next((after for name, after in zip(self.flags, self.flags[1:], strict=False) if name == flag), None)

    @property
    def mixed_precision(self) -> str:
        """`no`, `fp16` or `bf16`. Upstream's flag takes precedence over accelerate's variable."""
        return self.value("--mixed_precision") or self.environ.get("ACCELERATE_MIXED_PRECISION", "no")


@dataclass(frozen=True)
class NoSettings:
    """The settings of a patch that can only be switched on or off."""


def always(_start: Start, _settings: Any) -> None:
    """Return None: the default of `unneeded`, for a patch that every run needs."""


@dataclass(frozen=True)
class RuntimePatch:
    """A change made inside the training process; the texts are for PATCHES.md, `targets` for `verify`.

    `install` is called once for each module that `targets` names, right after its import, with the settings: an
    instance of `settings`, a frozen dataclass whose fields are the keys of `[runtime.NAME]` (see `settings.parse`).
    `unneeded` returns why a run does not need the patch, or None. `prepare` is called before anything of upstream is
    imported, for changes that have to come first. The module that defines a patch must not import torch or upstream at
    the top, directly or indirectly.
    """

    name: str
    reason: str
    upstream_version: str
    verification: str
    removal_condition: str
    targets: tuple[Target, ...]
    install: Callable[[ModuleType, Any], None]
    settings: type = NoSettings
    on_by_default: bool = False
    unneeded: Callable[[Start, Any], str | None] = always
    prepare: Callable[[], None] | None = None
