"""The definition of a runtime patch and of its settings. Each module in `runtime/patches` offers one, as `PATCH`.

A setting is a field of a frozen dataclass, of the type `bool`, `int`, `float`, `str`, `tuple[int, ...]` or a Literal of
strings; `limits` sets bounds.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from lora_training import nearest
from lora_training.errors import ConfigError
from lora_training.problems import Problem
from lora_training.runtime.run import Watcher


@dataclass(frozen=True)
class Target:
    """A function, class or variable of upstream, or of an installed package, that a patch changes or relies on.

    `digest` is `verify.digest_in` of `name` in `module` at the pin, with our patch files applied.
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


def nothing(_first: Any, _settings: Any) -> None:
    """Do nothing: the default of `install`, and that of `unneeded`, for a patch that every run needs."""


def one_process(start: Start, _settings: Any) -> str | None:
    """Return why a patch for several processes is not needed in a run with one."""
    return "there is one process" if int(start.environ.get("WORLD_SIZE", "1")) == 1 else None


@dataclass(frozen=True)
class RuntimePatch:
    """A change made inside the training process; the texts are for PATCHES.md, `targets` for `verify`.

    `install` is called once for each module that `targets` names, right after its import, with the settings: an
    instance of `settings`, a frozen dataclass whose fields are the keys of `[runtime.NAME]` (see `parse_settings`).
    `watcher` makes the patch's `Watcher` of the run from them; such a patch has `training.TARGETS` among its targets.
    `scripts` are the only ones that it is on for by default; none means all. `unneeded` returns why a run does not need
    the patch, or None. `prepare` is called before anything of upstream is imported, for changes that have to come
    first. The module that defines a patch must not import torch or upstream at the top, directly or indirectly.
    """

    name: str
    reason: str
    upstream_version: str
    verification: str
    removal_condition: str
    targets: tuple[Target, ...]
    install: Callable[[ModuleType, Any], None] = nothing
    watcher: Callable[[Any], Watcher] | None = None
    settings: type = NoSettings
    on_by_default: bool = False
    scripts: tuple[str, ...] = ()
    unneeded: Callable[[Start, Any], str | None] = nothing
    prepare: Callable[[], None] | None = None

    def is_default(self, script: str | None) -> bool:
        """Return whether it is on by default for a script; without one, whether it is for any."""
        return self.on_by_default and (script is None or not self.scripts or script in self.scripts)


def wrap_function(module: ModuleType, name: str, around: Callable[..., Any]) -> None:
    """Wrap `name` of `module`, a function or a method by its dotted path, with `around`.

    Calls become `around(wrapped, instance, args, kwargs)`, as in wrapt. wrapt is imported here, not at the top of a
    patch, since importing it would slow down commands that only list the patches.
    """
    from wrapt import wrap_function_wrapper

    wrap_function_wrapper(module, name, around)


def limits(default: Any = dataclasses.MISSING, *, least: float = -math.inf, most: float = math.inf) -> Any:
    """Declare a field with inclusive bounds."""
    return dataclasses.field(default=default, metadata={"least": least, "most": most})


def parse_settings(name: str, kind: type, table: Mapping[str, Any]) -> Any:
    """Return an instance of `kind` made from `[runtime.NAME]`. Raises ConfigError that lists every problem."""
    refuse(f"[runtime.{name}]", list(settings_problems(kind, table)))
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})


def refuse(where: str, problems: Sequence[Problem]) -> None:
    """Raise one ConfigError of all the problems, if there are any."""
    if problems:
        hints = [problem.hint for problem in problems if problem.hint]
        what = "; ".join(problem.message for problem in problems)
        raise ConfigError(f"{where}: {what}", hint="\n".join(hints) or None)


def settings_problems(kind: type, table: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield every problem in a table of settings for `kind`."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    types = typing.get_type_hints(kind)
    for key, value in table.items():
        if key not in fields:
            hint = nearest.hint(key, fields) or f"it has: {', '.join(fields) or 'no settings'}"
            yield Problem(f"there is no setting `{key}`", hint, key=key)
        elif wrong := _wrong(types[key], value, fields[key].metadata):
            yield Problem(f"`{key}` must be {wrong}, not {value!r}", key=key)
    for key, field in fields.items():
        if key not in table and field.default is dataclasses.MISSING:
            yield Problem(f"the setting `{key}` is missing")


def _wrong(kind: Any, value: Any, bounds: Mapping[str, Any]) -> str | None:
    """Describe the expected value, or return None when `value` is valid."""
    if typing.get_origin(kind) is Literal:
        words = typing.get_args(kind)
        return None if value in words else " or ".join(f'"{word}"' for word in words)
    if typing.get_origin(kind) is tuple:
        whole = isinstance(value, (list, tuple)) and value and all(_is_a(int, each) for each in value)
        return None if whole else "a list of whole numbers"
    if not _is_a(kind, value):
        return {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}[kind]
    least, most = bounds.get("least", -math.inf), bounds.get("most", math.inf)
    if kind not in (int, float) or least <= value <= most:
        return None
    return f"at least {least}" if most == math.inf else f"from {least} to {most}"


def _is_a(kind: type, value: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, (int, float)) and math.isfinite(value)
    return isinstance(value, kind)
