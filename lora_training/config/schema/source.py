"""The files of a tree as syntax trees. Nothing is imported."""

from __future__ import annotations

import ast
import hashlib
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lora_training.errors import UpstreamError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(eq=False)
class Module:
    """One file of the tree."""

    name: str
    path: str
    tree: ast.Module
    is_package: bool = False

    def absolute(self, node: ast.ImportFrom) -> str:
        """The dotted name that one of its `from ... import` statements names."""
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        keep = len(parts) - node.level + (1 if self.is_package else 0)
        return ".".join([*parts[:keep], *([node.module] if node.module else [])])


@dataclass(eq=False)
class Tree:
    """A source tree, and every file that was looked at: path in the tree -> sha256, or None where there is no file."""

    root: Path
    seen: dict[str, str | None] = field(default_factory=dict)
    _modules: dict[str, Module | None] = field(default_factory=dict)

    def module(self, name: str) -> Module | None:
        """The module of that dotted name, or None when the tree has no such file.

        Raises UpstreamError when the file is not Python.
        """
        if name not in self._modules:
            self._modules[name] = self._load(name)
        return self._modules[name]

    def _load(self, name: str) -> Module | None:
        stem = name.replace(".", "/")
        for path in (f"{stem}.py", f"{stem}/__init__.py"):
            data = self._read(path)
            if data is not None:
                return Module(name, path, _parse(data, path), path.endswith("/__init__.py"))
        return None

    def _read(self, path: str) -> bytes | None:
        data = read_bytes(self.root / path)
        self.seen[path] = digest(data)
        return data


def read_bytes(path: Path) -> bytes | None:
    """The content of a file, or None when there is none."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def digest(data: bytes | None) -> str | None:
    """The sha256 of a file's content; None for no file."""
    return None if data is None else hashlib.sha256(data).hexdigest()


def _parse(data: bytes, path: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # upstream's invalid escapes are upstream's
            return ast.parse(data, path)
    except (SyntaxError, ValueError) as exc:
        raise UpstreamError(f"{path} of the upstream tree is not Python: {exc}") from exc
