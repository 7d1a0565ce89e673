"""Digests of Python source that do not depend on formatting, comments or the Python version."""

from __future__ import annotations

import ast
import hashlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def parse(file: Path) -> ast.Module:
    """Return the syntax tree of a source file."""
    with warnings.catch_warnings():
        # warnings about escapes in upstream's strings appear when upstream itself runs
        warnings.simplefilter("ignore")
        return ast.parse(file.read_bytes(), str(file))


def digest(text: str, name: str) -> str | None:
    """`digest_in` of the source `text`."""
    return digest_in(ast.parse(text), name)


def digest_in(tree: ast.Module, name: str) -> str | None:
    """Return a short digest of the syntax tree of `name` in the module `tree`, or None when it does not exist.

    `name` is a function, a class, a variable assigned at the top, or a member of a class as `Class.member`.
    """
    found: ast.AST | None = tree
    for part in name.split("."):
        found = _member(found, part)
    return None if found is None else hashlib.sha256(repr(_shape(found)).encode()).hexdigest()[:16]


def _member(parent: ast.AST | None, name: str) -> ast.AST | None:
    body = getattr(parent, "body", [])
    return next((node for node in body if name in _names(node)), None)


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _shape(node: Any) -> Any:
    """Return the tree as nested tuples, without empty fields: which of those exist depends on the Python version."""
    if isinstance(node, ast.AST):
        fields = ((name, _shape(value)) for name, value in ast.iter_fields(node) if name != "kind")
        return (type(node).__name__, *(field for field in fields if field[1] not in (None, ())))
    if isinstance(node, list):
        return tuple(_shape(item) for item in node)
    return node
