"""The files of a tree as modules whose names are found when they are asked for. Nothing is imported."""

from __future__ import annotations

import ast
import hashlib
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_training.errors import UpstreamError


@dataclass(frozen=True)
class Lazy:
    """A name bound by an import: the module it comes from, and the attribute (None: the module itself)."""

    module: str
    attribute: str | None


@dataclass(eq=False)
class Module:
    """One file of the tree. `names` holds its globals once its top level has been run."""

    name: str
    path: str
    tree: ast.Module
    is_package: bool
    names: dict[str, Any] = field(default_factory=dict)
    ran: bool = False


@dataclass(eq=False)
class Tree:
    """A source tree, and every file that was looked at: path in the tree -> sha256, or None where there is no file."""

    root: Path
    seen: dict[str, str | None] = field(default_factory=dict)
    _modules: dict[str, Module | None] = field(default_factory=dict)

    @classmethod
    def nowhere(cls) -> Tree:
        """A tree without files."""
        return cls(Path(os.devnull))

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
        # a package without __init__.py has no names of its own, but its files are there
        return Module(name, stem, ast.Module([], []), is_package=True) if (self.root / stem).is_dir() else None

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
