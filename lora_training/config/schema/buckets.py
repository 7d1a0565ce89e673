"""The step of bucket sizes that a script's trainer requires, from the source of its class and base classes."""

from __future__ import annotations

import ast
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lora_training.config.schema.source import Module, Tree

_HOOK = "assert_extra_args"
_CALL = "verify_bucket_reso_steps"


def required_steps(tree: Tree, script: str) -> int:
    """Return the number that must divide `bucket_reso_steps` for `script`; 1 if upstream requires none.

    Upstream's trainers check it in `assert_extra_args`, and some also call the base class's check; then both apply.
    """
    module = tree.module(script)
    if module is None:
        return 1
    trainers = [n for n in module.tree.body if isinstance(n, ast.ClassDef) and _own_hook(n)]
    return _of_class(tree, module, trainers[-1]) if trainers else 1


def _of_class(tree: Tree, module: Module, node: ast.ClassDef) -> int:
    hook = _own_hook(node)
    if hook is None:
        return _of_base(tree, module, node)
    steps = [1]
    for call in (n for n in ast.walk(hook) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if name == _CALL:
            steps += [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, int)]
        elif name == _HOOK:
            steps.append(_of_base(tree, module, node))
    return math.lcm(*steps)


def _of_base(tree: Tree, module: Module, node: ast.ClassDef) -> int:
    found = (_class(tree, module, base) for base in node.bases)
    return math.lcm(*(_of_class(tree, *item) for item in found if item))


def _own_hook(node: ast.ClassDef) -> ast.FunctionDef | None:
    return next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == _HOOK), None)


def _class(tree: Tree, module: Module, base: ast.expr) -> tuple[Module, ast.ClassDef] | None:
    """Return the class that a base refers to: `Name` of this module, or `module.Name` of another script."""
    if isinstance(base, ast.Attribute) and isinstance(base.value, ast.Name):
        other = tree.module(base.value.id)
        return next(_named(other, base.attr), None) if other else None
    return next(_named(module, base.id), None) if isinstance(base, ast.Name) else None


def _named(module: Module, name: str) -> Iterator[tuple[Module, ast.ClassDef]]:
    return ((module, n) for n in module.tree.body if isinstance(n, ast.ClassDef) and n.name == name)
