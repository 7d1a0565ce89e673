"""The optimizers and schedulers that upstream accepts by name: its own, and those of installed packages.

They are read from source without importing anything, torch in particular.
"""

from __future__ import annotations

import ast
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from lora_training.config.schema.source import Module, Tree

if TYPE_CHECKING:
    from collections.abc import Iterator

# modules that have upstream's factory functions, newest first
_HOMES = ("library.optimizer", "library.train_util")
_SCHEDULERS = "SchedulerType"


def optimizers(tree: Path) -> frozenset[str]:
    """Return the names that `get_optimizer` compares with, case ignored; empty if the tree lacks that function."""
    function = next(
        (n for n in _home(tree).tree.body if isinstance(n, ast.FunctionDef) and n.name == "get_optimizer"), None
    )
    return frozenset(_lowered(function)) if function else frozenset()


def schedulers(tree: Path) -> frozenset[str]:
    """Return the values of the enums that upstream imports as SchedulerType; empty if their packages are missing."""
    home = _home(tree)
    sources = [home.absolute(node) for node in ast.walk(home.tree) if _imports(node, _SCHEDULERS)]
    return frozenset(value for source in sources for value in _values(source))


def classes(name: str) -> frozenset[str]:
    """Return the public classes of a module, such as `torch.optim`; empty if it is not installed."""
    module = _installed(name)
    return frozenset(each for each in _public(module) if each[:1].isupper()) if module else frozenset()


def is_module(name: str, tree: Path) -> bool:
    """Whether a training could import a module, from upstream's tree or an installed package."""
    if not all(part.isidentifier() for part in name.split(".")):
        return False
    head, *below = name.split(".")
    spec = PathFinder.find_spec(head, [str(tree)]) or find_spec(head)
    for part in below:
        if spec is None or spec.submodule_search_locations is None:
            return False
        head = f"{head}.{part}"
        spec = PathFinder.find_spec(head, list(spec.submodule_search_locations))
    return spec is not None


def _home(tree: Path) -> Module:
    source = Tree(tree)
    return next(filter(None, map(source.module, _HOMES)), Module("", "", ast.Module([], [])))


def _lowered(function: ast.FunctionDef) -> Iterator[str]:
    """Yield the texts in comparisons with `"Text".lower()`."""
    for node in ast.walk(function):
        for other in node.comparators if isinstance(node, ast.Compare) else ():
            if isinstance(other, ast.Call) and isinstance(other.func, ast.Attribute) and other.func.attr == "lower":
                yield from _texts(other.func.value)


def _values(module: str) -> Iterator[str]:
    """Yield the values of the SchedulerType that an installed module defines or imports."""
    found = _installed(module)
    for node in found.tree.body if found else ():
        if isinstance(node, ast.ClassDef) and node.name == _SCHEDULERS:
            yield from (text for n in node.body if isinstance(n, ast.Assign) for text in _texts(n.value))
        elif found and _imports(node, _SCHEDULERS):
            yield from _values(found.absolute(node))


def _imports(node: ast.AST, name: str) -> TypeGuard[ast.ImportFrom]:
    return isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names)


def _installed(name: str) -> Module | None:
    """Return the source of an installed module that is part of a package, or None."""
    spec = find_spec(name.partition(".")[0])
    folders = spec.submodule_search_locations if spec else None
    return Tree(Path(next(iter(folders))).parent).module(name) if folders else None


def _public(module: Module) -> Iterator[str]:
    """Yield the names in `__all__`; without it, the defined classes and the imported names."""
    listed = [n.value for n in module.tree.body if isinstance(n, ast.Assign) and _is_all(n)]
    if listed:
        yield from (text for value in listed for text in _texts(*getattr(value, "elts", ())))
        return
    for node in module.tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


def _is_all(node: ast.Assign) -> bool:
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets)


def _texts(*found: ast.expr) -> Iterator[str]:
    yield from (node.value for node in found if isinstance(node, ast.Constant) and isinstance(node.value, str))
