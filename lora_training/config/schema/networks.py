"""The key=value arguments that a network module of upstream's reads, from its source.

Upstream passes them to `create_network` as they are, and a name that nothing reads is ignored in silence.
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
_ALWAYS = frozenset({"dropout"})  # the trainer itself passes it on


class _Unbounded(Exception):
    """The arguments go on to where they cannot be followed."""


def arguments(tree: Path, module: str) -> frozenset[str] | None:
    """The names that `module` (such as `networks.lora`) reads; None when it is not in the tree, or any may do."""
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
    """The names that a function reads from the dictionary in `variable`, and those of functions that it hands it to."""
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
