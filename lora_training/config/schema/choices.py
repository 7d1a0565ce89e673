"""The optimizers and schedulers that upstream takes by name: its own, and those of the packages that it asks.

All of it is read from source; nothing is imported, torch least of all.
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

# where upstream has its factories, the newest place first
_HOMES = ("library.optimizer", "library.train_util")
_SCHEDULERS = "SchedulerType"


def optimizers(tree: Path) -> frozenset[str]:
    """The names that `get_optimizer` compares with, whatever their case; none in a tree without such a function."""
    function = next(
        (n for n in _home(tree).tree.body if isinstance(n, ast.FunctionDef) and n.name == "get_optimizer"), None
    )
    return frozenset(_lowered(function)) if function else frozenset()


def schedulers(tree: Path) -> frozenset[str]:
    """The values of the enumerations that upstream imports as SchedulerType; none where their packages are missing."""
    home = _home(tree)
    sources = [home.absolute(node) for node in ast.walk(home.tree) if _imports(node, _SCHEDULERS)]
    return frozenset(value for source in sources for value in _values(source))


def classes(name: str) -> frozenset[str]:
    """The public classes of an installed module, such as `torch.optim`; none where it is missing."""
    module = _installed(name)
    return frozenset(each for each in _public(module) if each[:1].isupper()) if module else frozenset()


def is_module(name: str, tree: Path) -> bool:
    """Whether a training could import a module: one of upstream's or an installed one."""
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
    """The texts in `name == "Text".lower()`."""
    for node in ast.walk(function):
        for other in node.comparators if isinstance(node, ast.Compare) else ():
            if isinstance(other, ast.Call) and isinstance(other.func, ast.Attribute) and other.func.attr == "lower":
                yield from _texts(other.func.value)


def _values(module: str) -> Iterator[str]:
    """The members' values of the SchedulerType that an installed module has, or imports."""
    found = _installed(module)
    for node in found.tree.body if found else ():
        if isinstance(node, ast.ClassDef) and node.name == _SCHEDULERS:
            yield from (text for n in node.body if isinstance(n, ast.Assign) for text in _texts(n.value))
        elif found and _imports(node, _SCHEDULERS):
            yield from _values(found.absolute(node))


def _imports(node: ast.AST, name: str) -> TypeGuard[ast.ImportFrom]:
    return isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names)


def _installed(name: str) -> Module | None:
    """The source of an installed module, a part of a package."""
    spec = find_spec(name.partition(".")[0])
    folders = spec.submodule_search_locations if spec else None
    return Tree(Path(next(iter(folders))).parent).module(name) if folders else None


def _public(module: Module) -> Iterator[str]:
    """`__all__`, or what is defined and imported."""
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
