"""The key=value arguments that one of upstream's network modules reads, from its source.

Upstream passes them to `create_network` unchanged, and unknown names are ignored silently.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from lora_training.config.schema.source import Tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lora_training.config.schema.source import Module

_ENTRY = "create_network"
_ALWAYS = frozenset({"dropout"})  # passed on by the trainer itself


class _Unbounded(Exception):
    """The arguments are passed to code that cannot be analysed."""


def arguments(tree: Path, module: str) -> frozenset[str] | None:
    """Return the names that `module` (such as `networks.lora`) reads.

    None if the module is not in the tree, or if the names cannot be determined.
    """
    source = Tree(tree)
    found = source.module(module)
    entry = _function(found, _ENTRY) if found else None
    if found is None or entry is None or entry.args.kwarg is None:
        return None
    try:
        return frozenset(_read(source, found, entry, entry.args.kwarg.arg)) | _ALWAYS
    except (_Unbounded, RecursionError):
        return None


def _function(module: Module, name: str) -> ast.FunctionDef | None:
    return next((n for n in module.tree.body if isinstance(n, ast.FunctionDef) and n.name == name), None)


def _read(source: Tree, module: Module, function: ast.FunctionDef, variable: str) -> Iterator[str]:
    """Yield the keys that a function, or a function it passes the dictionary `variable` to, reads from it."""
    for node in ast.walk(function):
        if isinstance(node, ast.Subscript) and _is(node.value, variable):
            yield from _text(node.slice)
        elif isinstance(node, ast.Compare) and any(_is(part, variable) for part in node.comparators):
            yield from _text(node.left)
        elif isinstance(node, ast.Call):
            yield from _call(source, module, node, variable)


def _call(source: Tree, module: Module, node: ast.Call, variable: str) -> Iterator[str]:
    if isinstance(node.func, ast.Attribute) and _is(node.func.value, variable):
        yield from _text(node.args[0]) if node.args else ()
        return
    handed = [number for number, arg in enumerate(node.args) if _is(arg, variable)]
    spread = any(keyword.arg is None and _is(keyword.value, variable) for keyword in node.keywords)
    named = [keyword.arg for keyword in node.keywords if keyword.arg and _is(keyword.value, variable)]
    if not (handed or spread or named):
        return
    target = _function(module, node.func.id) if isinstance(node.func, ast.Name) else None
    if target is None or (spread and target.args.kwarg is None):
        raise _Unbounded
    parameters = [arg.arg for arg in target.args.args]
    names = [parameters[number] for number in handed if number < len(parameters)] + [str(name) for name in named]
    names += [target.args.kwarg.arg] if spread and target.args.kwarg else []
    for name in names:
        yield from _read(source, module, target, name)


def _is(node: ast.expr, variable: str) -> bool:
    return isinstance(node, ast.Name) and node.id == variable


def _text(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
