"""What the reader computes with where Python's own values do not do: names it cannot see into, functions, classes."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from lora_training.config.schema.source import Module


class Undecided(Exception):
    """The value of this source depends on something that reading alone cannot tell."""


class Raised(Exception):
    """The source that is read raised an exception; `name` is its class."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message


@dataclass(frozen=True)
class Symbol:
    """Something outside the tree, by its dotted name, such as `torch.float16`."""

    name: str

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        """Be callable, so that argparse takes it for a type."""
        raise Undecided(self.name)


@dataclass(frozen=True, eq=False)
class SymbolCall:
    """A call of something outside the tree, kept as it is written: `voluptuous.Any(float, int)`."""

    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def name(self) -> str:
        """The call without its arguments, as a name goes on from it."""
        return f"{self.function}()"

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        """Be callable, so that argparse takes it for a type."""
        raise Undecided(self.function)


UNSEEN = (Symbol, SymbolCall)


@dataclass(eq=False)
class Scope:
    """Local names, the enclosing scope (None: the module's globals) and the module."""

    module: Module
    names: dict[str, Any] = field(default_factory=dict)
    outer: Scope | None = None


@dataclass(eq=False)
class Function:
    """A function or lambda of the tree. `call` is the interpreter's way to run it."""

    node: ast.FunctionDef | ast.Lambda
    scope: Scope
    call: Callable[..., Any]

    @property
    def __name__(self) -> str:
        """The name that argparse's messages and our schema show."""
        return self.node.name if isinstance(self.node, ast.FunctionDef) else "<lambda>"

    @property
    def source(self) -> str:
        """The text of the definition, without the indentation that the file gives it."""
        return ast.unparse(self.node)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body."""
        return self.call(self, args, kwargs)


@dataclass(eq=False)
class Class:
    """A class of the tree: its own names, and its bases that are in the tree too."""

    name: str
    names: dict[str, Any]
    bases: tuple[Class, ...] = ()

    def find(self, name: str) -> Any:
        """The attribute of that name here or in a base. Raises KeyError."""
        for owner in (self, *self.bases):
            if name in owner.names:
                return owner.names[name]
        raise KeyError(name)


@dataclass(frozen=True, eq=False)
class Static:
    """What `@staticmethod` makes of a function."""

    function: Function


@dataclass(eq=False)
class Instance:
    """An object of a class of the tree."""

    cls: Class
    names: dict[str, Any] = field(default_factory=dict)
