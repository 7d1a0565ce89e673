"""What a runtime patch is, as data. Each module in `runtime/patches` offers one, as `PATCH`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType


@dataclass(frozen=True)
class Target:
    """A piece of upstream, or of an installed package, that a patch changes or builds on.

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
        """What follows `flag` on the command line."""
        return next((after for name, after in zip(self.flags, self.flags[1:], strict=False) if name == flag), None)

    @property
    def mixed_precision(self) -> str:
        """`no`, `fp16` or `bf16`; upstream's flag counts for more than accelerate's variable, as it does there."""
        return self.value("--mixed_precision") or self.environ.get("ACCELERATE_MIXED_PRECISION", "no")


@dataclass(frozen=True)
class NoSettings:
    """A patch that is only switched on or off."""


def always(_start: Start, _settings: Any) -> None:
    """A patch that no start makes unnecessary."""


@dataclass(frozen=True)
class RuntimePatch:
    """A change made inside the training process; the texts are for PATCHES.md, `targets` for `verify`.

    `install` is called once for each module that `targets` names, right after its import, with the settings: an
    instance of `settings`, a frozen dataclass whose fields are the keys of `[runtime.NAME]` (see `settings.parse`).
    `unneeded` says why a start can do without the patch, or None. `prepare` is called before anything of upstream is
    imported, for what has to be there by then. Neither the module that defines a patch nor what
    it imports at the top may import torch or upstream.
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
