"""The registry of runtime patches: which exist, which a configuration chooses, and their installation."""

from __future__ import annotations

import functools
import pkgutil
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from lora_training import without
from lora_training.errors import PatchError
from lora_training.problems import Problem
from lora_training.runtime import model, patches, training, verify
from lora_training.runtime.model import RuntimePatch, Start

# the folder of patches in the checkout that holds this package
_PATCHES = Path(__file__).resolve().parents[2] / "patches"
_FILE = f"{_PATCHES.name}/{without.FILE}"


@functools.cache
def available() -> dict[str, RuntimePatch]:
    """Every runtime patch, by its name."""
    names = sorted(info.name for info in pkgutil.iter_modules(patches.__path__))
    found: list[RuntimePatch] = [import_module(f"{patches.__name__}.{name}").PATCH for name in names]
    return {patch.name: patch for patch in found}


@functools.cache
def taken_out() -> frozenset[str]:
    """The patches that are disabled in this checkout, since they do not fit its pinned upstreams."""
    return frozenset(without.read(_PATCHES)) & available().keys()


def chosen(table: Mapping[str, bool | Mapping[str, Any]], script: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the patches that `[runtime]` switches on, with their settings: the defaults and those it names.

    Default patches for other scripts than `script` are left out: they are no part of the identity of its runs.
    """
    there = [patch for name, patch in available().items() if name not in taken_out()]
    by_default: dict[str, Any] = {patch.name: {} for patch in there if patch.is_default(script)}
    merged = by_default | {name: {} if value is True else value for name, value in table.items()}
    return {name: dict(value) for name, value in merged.items() if value is not False}


def switched_off(runtime: Container[str], script: str) -> list[str]:
    """Return the default patches for a script that are not among those chosen."""
    return [name for name, patch in available().items() if patch.is_default(script) and name not in runtime]


def problems(table: Mapping[str, bool | Mapping[str, Any]]) -> dict[str, list[Problem]]:
    """Return the problems in the settings of `[runtime]`, by patch. Unknown patch names are ignored."""
    found = {name: _problems(name, value) for name, value in chosen(table).items() if name in available()}
    return {name: wrong for name, wrong in found.items() if wrong}


def _problems(name: str, value: Mapping[str, Any]) -> list[Problem]:
    if name in taken_out():
        hint = f"set it to false; `lora upstream bump` puts {name} back at a commit that it fits"
        return [Problem(f"it is taken out of this checkout, says {_FILE}", hint)]
    return list(model.settings_problems(available()[name].settings, value))


@dataclass(frozen=True)
class Listed:
    """A runtime patch as the command line lists it. `settings` holds the defaults; None marks a required setting."""

    name: str
    description: str
    on_by_default: bool
    settings: dict[str, Any]
    taken_out: bool = False


def listing() -> list[Listed]:
    """Every runtime patch, ordered by name."""
    return [_listed(patch) for patch in available().values()]


def _listed(patch: RuntimePatch) -> Listed:
    summary = (
        (sys.modules[f"{patches.__name__}.{patch.name.replace('-', '_')}"].__doc__ or "")
        .split("\n\n")[0]
        .replace("\n", " ")
    )
    values = {field.name: None if field.default is MISSING else field.default for field in fields(patch.settings)}
    return Listed(patch.name, summary.strip(), patch.on_by_default, values, patch.name in taken_out())


def check(tree: Path, names: Iterable[str] | None = None, cache: Path | None = None) -> list[Problem]:
    """Return the problems with the targets of those patches, for trainings that run a script of `tree`.

    Without `names`, every patch that is not disabled is checked.
    """
    wanted = available().keys() - taken_out() if names is None else names
    found = verify.targets([available()[name] for name in sorted(wanted)], [tree], cache)
    return [Problem(str(each), where=each.patch) for each in found]


def needed(table: Mapping[str, Mapping[str, Any]], start: Start) -> list[str]:
    """The patches of `table` that this run needs."""
    return [patch.name for patch, _, why_not in _parsed(table, start) if not why_not]


def _parsed(table: Mapping[str, Mapping[str, Any]], start: Start) -> Iterator[tuple[RuntimePatch, Any, str | None]]:
    """Yield each patch with its settings and the reason why the run does not need it, if there is one."""
    for name, raw in table.items():
        if name not in available():
            raise PatchError(f"there is no runtime patch named {name!r}", hint=f"there are: {', '.join(available())}")
        patch = available()[name]
        settings = model.parse_settings(name, patch.settings, raw)
        yield patch, settings, patch.unneeded(start, settings)


def install(table: Mapping[str, Mapping[str, Any]], tree: Path, start: Start) -> list[str]:
    """Install each patch of `table` when its target modules are imported; return the lines of the banner.

    Raises PatchError for an unknown name and for a target that is missing or changed, ConfigError for invalid settings.
    """
    parsed = list(_parsed(table, start))
    if found := check(tree, [patch.name for patch, _, why_not in parsed if not why_not]):
        hint = "bring the tree to its pin (`lora upstream status`) or switch the patch off in [runtime]"
        raise PatchError("\n".join(problem.message for problem in found), hint=hint)
    for patch, settings, why_not in parsed:
        if why_not:
            continue
        if patch.prepare is not None:
            patch.prepare()
        for module in dict.fromkeys(target.module for target in patch.targets):
            _at_import(module, _hook(patch, settings, module, tree))
    return [f"{patch.name}: not needed, {why_not}" if why_not else f"{patch.name}: on" for patch, _, why_not in parsed]


# the hooks to run after a module's import, by the module's name
_waiting: dict[str, list[Callable[[ModuleType], None]]] = {}


def _at_import(module: str, hook: Callable[[ModuleType], None]) -> None:
    from wrapt import register_post_import_hook

    _waiting.setdefault(module, []).append(hook)
    register_post_import_hook(hook, module)


def script_defined(name: str, module: ModuleType) -> None:
    """Run the hooks registered for `name` on `module`, the script itself, which is never imported."""
    for hook in _waiting.get(name, []):
        hook(module)


def _hook(patch: RuntimePatch, parsed: Any, name: str, tree: Path) -> Callable[[ModuleType], None]:
    def hook(module: ModuleType) -> None:
        installed = vars(module).setdefault("__lora_patches__", set())
        if patch.name in installed:
            return
        verified = verify.locate(name, tree)
        if verified is None or not verified.samefile(str(module.__file__)):
            raise PatchError(
                f"runtime patch {patch.name}: {name} came from {module.__file__}, not from {verified}",
                hint="is PYTHONPATH set, or another copy of it installed?",
            )
        if (make := patch.watcher) is not None:
            training.watch(module, patch.name, lambda: make(parsed))
        patch.install(module, parsed)
        installed.add(patch.name)

    return hook
