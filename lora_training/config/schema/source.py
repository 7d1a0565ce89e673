"""Parse the files of a tree into syntax trees, without importing them."""

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
    """One parsed file of the tree."""

    name: str
    path: str
    tree: ast.Module
    is_package: bool = False

    def absolute(self, node: ast.ImportFrom) -> str:
        """Return the absolute dotted name of the module that a `from ... import` statement names."""
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        keep = len(parts) - node.level + (1 if self.is_package else 0)
        return ".".join([*parts[:keep], *([node.module] if node.module else [])])


@dataclass(eq=False)
class Tree:
    """A source tree and the files looked at: path in the tree -> sha256, or None for a missing file."""

    root: Path
    seen: dict[str, str | None] = field(default_factory=dict)
    _modules: dict[str, Module | None] = field(default_factory=dict)

    def module(self, name: str) -> Module | None:
        """Return the module of a dotted name, or None if the tree has no such file.

        Raises UpstreamError if the file is not valid Python.
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
    """Return the content of a file, or None if it does not exist."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def digest(data: bytes | None) -> str | None:
    """Return the sha256 of a file's content; None for a missing file."""
    return None if data is None else hashlib.sha256(data).hexdigest()


def _parse(data: bytes, path: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escape sequences in upstream's source
            return ast.parse(data, path)
    except (SyntaxError, ValueError) as exc:
        raise UpstreamError(f"{path} of the upstream tree is not Python: {exc}") from exc
