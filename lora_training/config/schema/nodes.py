"""Small questions about Python's syntax tree."""

from __future__ import annotations

import ast
import enum
from typing import TYPE_CHECKING, Any

from lora_training.config.schema.values import Function, Static

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lora_training.config.schema.source import Module


def top_level(statements: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """A module's statements, with the bodies of `try` opened: an import that may fail is taken to work."""
    for statement in statements:
        if isinstance(statement, ast.Try):
            yield from top_level([*statement.body, *statement.orelse, *statement.finalbody])
        elif not (isinstance(statement, ast.If) and "__main__" in ast.dump(statement.test)):
            yield statement


def bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement may bind."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def loaded(target: ast.expr) -> ast.expr:
    """A target of an assignment as something to look at."""
    return ast.Name(target.id, ast.Load()) if isinstance(target, ast.Name) else target


def absolute(node: ast.ImportFrom, module: Module) -> str:
    """The dotted name that `from ... import` names, seen from `module`."""
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    keep = len(parts) - node.level + (1 if module.is_package else 0)
    return ".".join([*parts[:keep], *([node.module] if node.module else [])])


def enumeration(name: str, bases: list[Any], names: dict[str, Any]) -> Any:
    """A real Enum for a class that derives from one, so that `list(E)` and `.value` work; else None."""
    if not any(isinstance(base, type) and issubclass(base, enum.Enum) for base in bases):
        return None
    members = {k: v for k, v in names.items() if not k.startswith("_") and not isinstance(v, Function | Static)}
    mixin = next((base for base in bases if base in (str, int, float)), None)
    return enum.Enum(name, members, type=mixin)
