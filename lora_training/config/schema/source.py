"""Names that upstream accepts besides its flags: arguments of networks, optimizers, schedulers.

They are read from source. Importing torch and transformers takes seconds, and which keys a function reads from its
`**kwargs` cannot be seen by calling it.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import TypeGuard

from lora_training.errors import UpstreamError

_ALWAYS = frozenset({"dropout"})  # an argument of every network, which the trainer itself passes on
# modules that have upstream's factory functions, newest first
_FACTORIES = ("library.optimizer", "library.train_util")
_SCHEDULERS = "SchedulerType"


@dataclass(frozen=True)
class Module:
    """One parsed file."""

    name: str
    body: list[ast.stmt]
    is_package: bool

    def function(self, name: str) -> ast.FunctionDef | None:
        """Return the function of this name, or None."""
        return next((n for n in self.body if isinstance(n, ast.FunctionDef) and n.name == name), None)

    def absolute(self, node: ast.ImportFrom) -> str:
        """Return the absolute dotted name of the module that a `from ... import` statement names."""
        package = self.name if self.is_package else self.name.rpartition(".")[0]
        return resolve_name("." * node.level + (node.module or ""), package)


@dataclass(eq=False)
class Tree:
    """A source tree, whose files are parsed once."""

    root: Path
    _modules: dict[str, Module | None] = field(default_factory=dict)

    def module(self, name: str) -> Module | None:
        """Return the module of a dotted name; None if there is no file. Raises UpstreamError if it is not Python."""
        if name not in self._modules:
            stem = name.replace(".", "/")
            paths = (path for path in (f"{stem}.py", f"{stem}/__init__.py") if (self.root / path).is_file())
            path = next(paths, None)
            body = _parsed(self.root, path) if path else []
            self._modules[name] = Module(name, body, path.endswith("/__init__.py")) if path else None
        return self._modules[name]


def _parsed(root: Path, path: str) -> list[ast.stmt]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escape sequences in upstream's source
            return ast.parse((root / path).read_bytes(), path).body
    except (SyntaxError, ValueError) as exc:
        raise UpstreamError(f"{path} of the upstream tree is not Python: {exc}") from exc


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


def _texts(*nodes: ast.AST) -> Iterator[str]:
    yield from (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


# -- optimizers and schedulers


def optimizers(tree: Path) -> frozenset[str]:
    """Return the names that `get_optimizer` compares with, case ignored; empty if the tree lacks that function."""
    module = _factories(tree)
    function = module.function("get_optimizer") if module else None
    compared = (other for node in ast.walk(function or ast.Pass()) for other in getattr(node, "comparators", ()))
    # such as `"Lion".lower()`
    lowered = (n.func for n in compared if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute))
    return frozenset(text for attribute in lowered if attribute.attr == "lower" for text in _texts(attribute.value))


def schedulers(tree: Path) -> frozenset[str]:
    """Return the values of the enums that upstream imports as SchedulerType; empty if their packages are missing."""
    module = _factories(tree)
    imports = (n for statement in module.body for n in ast.walk(statement) if _imports(n)) if module else ()
    return frozenset(value for node in imports if module for value in _enumerated(module.absolute(node)))


def classes(name: str) -> frozenset[str]:
    """Return the public classes of a module, such as `torch.optim`; empty if it is not installed."""
    module = _installed(name)
    return frozenset(each for each in _public(module) if each[:1].isupper()) if module else frozenset()


def _factories(tree: Path) -> Module | None:
    return next(filter(None, map(Tree(tree).module, _FACTORIES)), None)


def _enumerated(name: str) -> Iterator[str]:
    """Yield the values of the SchedulerType that an installed module defines or imports."""
    module = _installed(name)
    for node in module.body if module else ():
        if isinstance(node, ast.ClassDef) and node.name == _SCHEDULERS:
            yield from (text for n in node.body if isinstance(n, ast.Assign) for text in _texts(n.value))
        elif module and _imports(node):
            yield from _enumerated(module.absolute(node))


def _imports(node: ast.AST) -> TypeGuard[ast.ImportFrom]:
    return isinstance(node, ast.ImportFrom) and any(alias.name == _SCHEDULERS for alias in node.names)


def _installed(name: str) -> Module | None:
    """Return an installed module that is part of a package, or None."""
    spec = find_spec(name.partition(".")[0])
    folders = spec.submodule_search_locations if spec else None
    return Tree(Path(next(iter(folders))).parent).module(name) if folders else None


def _public(module: Module) -> Iterator[str]:
    """Yield the names in `__all__`; without it, the defined classes and the imported names."""
    listed = [
        node.value
        for node in module.body
        if isinstance(node, ast.Assign) and "__all__" in map(ast.unparse, node.targets)
    ]
    if listed:
        yield from (text for value in listed for text in _texts(*getattr(value, "elts", ())))
        return
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


# -- arguments of networks


class _UnboundedError(Exception):
    """The arguments are passed to code that cannot be analysed."""


def network_arguments(tree: Path, name: str) -> frozenset[str] | None:
    """Return the key=value arguments that a network module (such as `networks.lora`) reads.

    None if the module is not in the tree, or if they cannot be determined. Upstream passes them to `create_network`
    unchanged and ignores unknown names silently.
    """
    module = Tree(tree).module(name)
    entry = module.function("create_network") if module else None
    if module is None or entry is None or entry.args.kwarg is None:
        return None
    try:
        return frozenset(_keys_read(module, entry, entry.args.kwarg.arg)) | _ALWAYS
    except (_UnboundedError, RecursionError):
        return None


def _keys_read(module: Module, function: ast.FunctionDef, variable: str) -> Iterator[str]:
    """Yield the keys that a function, or a function it passes the dictionary `variable` to, reads from it."""
    for node in ast.walk(function):
        if isinstance(node, ast.Subscript) and _is(node.value, variable):
            yield from _texts(node.slice)
        elif isinstance(node, ast.Compare) and any(_is(part, variable) for part in node.comparators):
            yield from _texts(node.left)
        elif isinstance(node, ast.Call):
            yield from _keys_read_by_call(module, node, variable)


def _keys_read_by_call(module: Module, node: ast.Call, variable: str) -> Iterator[str]:
    if isinstance(node.func, ast.Attribute) and _is(node.func.value, variable):
        yield from _texts(*node.args[:1])
        return
    handed = [number for number, arg in enumerate(node.args) if _is(arg, variable)]
    keywords = [keyword.arg for keyword in node.keywords if _is(keyword.value, variable)]
    if not (handed or keywords):
        return
    target = module.function(node.func.id) if isinstance(node.func, ast.Name) else None
    rest = target.args.kwarg.arg if target and target.args.kwarg else None
    # `None` is the keyword of `**variable`
    if target is None or (None in keywords and rest is None):
        raise _UnboundedError
    parameters = [arg.arg for arg in target.args.args]
    names = [parameters[number] for number in handed if number < len(parameters)]
    for name in (*names, *(keyword or rest for keyword in keywords)):
        yield from _keys_read(module, target, str(name))


def _is(node: ast.expr, variable: str) -> bool:
    return isinstance(node, ast.Name) and node.id == variable
