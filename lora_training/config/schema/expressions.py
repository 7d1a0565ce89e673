"""The value of a Python expression, read and not run: only pure operations, argparse and the tree's own functions."""

from __future__ import annotations

import argparse
import ast
import enum
import operator
import pathlib
import string
from typing import TYPE_CHECKING, Any

from lora_training.config.schema import natives
from lora_training.config.schema.values import (
    UNSEEN,
    Class,
    Function,
    Instance,
    Raised,
    Scope,
    Static,
    Symbol,
    SymbolCall,
    Undecided,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.Not: lambda value: not value,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Invert: operator.invert,
}


class Expressions:
    """Evaluates expressions. Names, statements and calls of the tree's functions are the subclass's."""

    def name(self, name: str, scope: Scope) -> Any:
        """The value of a name seen from `scope`."""
        raise NotImplementedError

    def run_function(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function of the tree."""
        raise NotImplementedError

    def module_attribute(self, module: Any, name: str) -> Any:
        """An attribute of a module of the tree."""
        raise NotImplementedError

    def is_module(self, value: Any) -> bool:
        """Whether `value` is a module of the tree."""
        raise NotImplementedError

    def evaluate(self, node: ast.expr, scope: Scope) -> Any:
        """The value of `node`. Raises Undecided, or Raised when the source would raise."""
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise Undecided(f"{type(node).__name__} is not read")
        return method(node, scope)

    def truth(self, node: ast.expr, scope: Scope) -> bool:
        """Whether a condition holds. Raises Undecided when reading alone cannot tell."""
        value = self.evaluate(node, scope)
        if isinstance(value, UNSEEN):
            raise Undecided(f"`{ast.unparse(node)}` is not known before the program runs")
        return bool(value)

    # -- atoms and containers

    def _constant(self, node: ast.Constant, _scope: Scope) -> Any:
        return node.value

    def _name(self, node: ast.Name, scope: Scope) -> Any:
        return self.name(node.id, scope)

    def _list(self, node: ast.List, scope: Scope) -> list[Any]:
        return list(self._items(node.elts, scope))

    def _tuple(self, node: ast.Tuple, scope: Scope) -> tuple[Any, ...]:
        return tuple(self._items(node.elts, scope))

    def _set(self, node: ast.Set, scope: Scope) -> set[Any]:
        return set(self._items(node.elts, scope))

    def _items(self, nodes: list[ast.expr], scope: Scope) -> Iterator[Any]:
        for node in nodes:
            if isinstance(node, ast.Starred):
                yield from self.iterate(self.evaluate(node.value, scope))
            else:
                yield self.evaluate(node, scope)

    def _dict(self, node: ast.Dict, scope: Scope) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                result.update(self.evaluate(value, scope))
            else:
                result[self.evaluate(key, scope)] = self.evaluate(value, scope)
        return result

    def _joinedstr(self, node: ast.JoinedStr, scope: Scope) -> Any:
        parts = [self.evaluate(part, scope) for part in node.values]
        return next((p for p in parts if isinstance(p, UNSEEN)), None) or "".join(parts)

    def _formattedvalue(self, node: ast.FormattedValue, scope: Scope) -> Any:
        value = self.evaluate(node.value, scope)
        if isinstance(value, UNSEEN):
            return value
        conversions: dict[int, Callable[[Any], Any]] = {ord("s"): str, ord("r"): repr, ord("a"): ascii}
        converted = conversions[node.conversion](value) if node.conversion in conversions else value
        spec = self.evaluate(node.format_spec, scope) if node.format_spec else ""
        return format(converted, spec)

    # -- operators

    def _binop(self, node: ast.BinOp, scope: Scope) -> Any:
        left, right = self.evaluate(node.left, scope), self.evaluate(node.right, scope)
        return self.binary(type(node.op), left, right)

    def binary(self, kind: type[ast.operator], left: Any, right: Any) -> Any:
        """`left op right`; what cannot be seen stays unseen."""
        if kind not in _BINARY:
            raise Undecided(f"the operator {kind.__name__} is not read")
        if isinstance(left, UNSEEN) or isinstance(right, UNSEEN):
            return SymbolCall(f"operator.{kind.__name__}", (left, right), {})
        return self.guarded(_BINARY[kind], left, right)

    def _unaryop(self, node: ast.UnaryOp, scope: Scope) -> Any:
        value = self.evaluate(node.operand, scope)
        operation: Callable[[Any], Any] = _UNARY[type(node.op)]
        return value if isinstance(value, UNSEEN) else self.guarded(operation, value)

    def _boolop(self, node: ast.BoolOp, scope: Scope) -> Any:
        wanted = isinstance(node.op, ast.Or)
        value: Any = None
        for part in node.values:
            value = self.evaluate(part, scope)
            if isinstance(value, UNSEEN) or bool(value) == wanted:
                return value
        return value

    def _compare(self, node: ast.Compare, scope: Scope) -> Any:
        left = self.evaluate(node.left, scope)
        for op, part in zip(node.ops, node.comparators, strict=True):
            right = self.evaluate(part, scope)
            if not isinstance(op, ast.Is | ast.IsNot) and isinstance(left, UNSEEN) | isinstance(right, UNSEEN):
                return SymbolCall(f"operator.{type(op).__name__}", (left, right), {})
            if not self.guarded(_COMPARE[type(op)], left, right):
                return False
            left = right
        return True

    def _ifexp(self, node: ast.IfExp, scope: Scope) -> Any:
        return self.evaluate(node.body if self.truth(node.test, scope) else node.orelse, scope)

    def _namedexpr(self, node: ast.NamedExpr, scope: Scope) -> Any:
        value = self.evaluate(node.value, scope)
        scope.names[node.target.id] = value
        return value

    def _subscript(self, node: ast.Subscript, scope: Scope) -> Any:
        value, key = self.evaluate(node.value, scope), self.evaluate(node.slice, scope)
        if isinstance(value, (*UNSEEN, type)) or isinstance(key, UNSEEN):
            return Symbol(ast.unparse(node))
        return self.guarded(operator.getitem, value, key)

    def _slice(self, node: ast.Slice, scope: Scope) -> slice:
        return slice(*(self.evaluate(part, scope) if part else None for part in (node.lower, node.upper, node.step)))

    # -- functions and comprehensions

    def _lambda(self, node: ast.Lambda, scope: Scope) -> Function:
        return Function(node, scope, self.run_function)

    def _listcomp(self, node: ast.ListComp | ast.GeneratorExp, scope: Scope) -> list[Any]:
        return [self.evaluate(node.elt, inner) for inner in self._loops(node.generators, scope)]

    _generatorexp = _listcomp

    def _setcomp(self, node: ast.SetComp, scope: Scope) -> set[Any]:
        return {self.evaluate(node.elt, inner) for inner in self._loops(node.generators, scope)}

    def _dictcomp(self, node: ast.DictComp, scope: Scope) -> dict[Any, Any]:
        inners = self._loops(node.generators, scope)
        return {self.evaluate(node.key, inner): self.evaluate(node.value, inner) for inner in inners}

    def _loops(self, generators: list[ast.comprehension], scope: Scope) -> Iterator[Scope]:
        if not generators:
            yield scope
            return
        first, *rest = generators
        for item in self.iterate(self.evaluate(first.iter, scope)):
            inner = Scope(scope.module, {}, scope)
            self.assign(first.target, item, inner)
            if all(self.truth(test, inner) for test in first.ifs):
                yield from self._loops(rest, inner)

    def _call(self, node: ast.Call, scope: Scope) -> Any:
        function = self.evaluate(node.func, scope)
        args = tuple(self._items(node.args, scope))
        kwargs: dict[str, Any] = {}
        for keyword in node.keywords:
            value = self.evaluate(keyword.value, scope)
            kwargs.update(value if keyword.arg is None else {keyword.arg: value})
        return self.call(function, args, kwargs)

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function or class of the tree, a harmless one of Python's, or keep the call as a SymbolCall."""
        if isinstance(function, Static | Function):
            target = function.function if isinstance(function, Static) else function
            return self.run_function(target, args, kwargs)
        if isinstance(function, Class):
            return self._instantiate(function, args, kwargs)
        if isinstance(function, UNSEEN):
            return SymbolCall(function.name, args, kwargs)
        if natives.is_builtin(function) and any(isinstance(arg, UNSEEN) for arg in args):
            return SymbolCall(function.__name__, args, kwargs)
        if function is argparse.ArgumentParser:
            kwargs = {"prog": "upstream", **kwargs}  # the default reads sys.argv
        return self.guarded(function, *args, **natives.arguments(function, kwargs))

    def _instantiate(self, cls: Class, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Instance:
        instance = Instance(cls)
        try:
            init = cls.find("__init__")
        except KeyError:
            return instance
        self.call(init, (instance, *args), kwargs)
        return instance

    # -- attributes

    def _attribute(self, node: ast.Attribute, scope: Scope) -> Any:
        return self.attribute(self.evaluate(node.value, scope), node.attr)

    def attribute(self, value: Any, name: str) -> Any:
        """`value.name`, where looking is harmless. Raises Undecided where it is not."""
        if isinstance(value, UNSEEN):
            return natives.native(f"{value.name}.{name}")
        if self.is_module(value):
            return self.module_attribute(value, name)
        if isinstance(value, Static | Function) and name in {"__func__", "__name__"}:
            return value.function if isinstance(value, Static) else getattr(value, name)
        if isinstance(value, Class | Instance):
            return self._member(value, name)
        if value in (argparse, enum, pathlib, string):
            return natives.native(f"{value.__name__}.{name}")
        if not natives.is_harmless(value, name):
            raise Undecided(f"`.{name}` of {type(value).__name__} is not read")
        return self.guarded(getattr, value, name)

    def _member(self, value: Class | Instance, name: str) -> Any:
        if isinstance(value, Instance) and name in value.names:
            return value.names[name]
        cls = value.cls if isinstance(value, Instance) else value
        try:
            found = cls.find(name)
        except KeyError:
            raise Raised("AttributeError", name) from None
        if isinstance(found, Function) and isinstance(value, Instance):
            return lambda *args, **kwargs: self.call(found, (value, *args), kwargs)
        return found

    # -- shared by statements

    def assign(self, target: ast.expr, value: Any, scope: Scope) -> None:
        """Bind `value` to a name, a tuple of names, an item or an attribute."""
        if isinstance(target, ast.Name):
            scope.names[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            for part, item in zip(target.elts, self.iterate(value), strict=False):
                self.assign(part, item, scope)
        elif isinstance(target, ast.Attribute):
            self._set_attribute(self.evaluate(target.value, scope), target.attr, value)
        elif isinstance(target, ast.Subscript):
            owner, key = self.evaluate(target.value, scope), self.evaluate(target.slice, scope)
            if isinstance(owner, dict | list):
                self.guarded(operator.setitem, owner, key, value)

    def _set_attribute(self, owner: Any, name: str, value: Any) -> None:
        if isinstance(owner, Instance | Class):
            owner.names[name] = value
        elif natives.is_parser_part(owner):
            setattr(owner, name, value)

    def iterate(self, value: Any) -> Iterator[Any]:
        """The items of `value`. Raises Undecided for what cannot be seen into."""
        if isinstance(value, UNSEEN):
            raise Undecided("the items of something outside the tree")
        return self.guarded(iter, value)  # type: ignore[no-any-return] # guarded gives back what iter gives

    def guarded(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call Python's own function; its exception becomes one of the source that is read."""
        try:
            return function(*args, **kwargs)
        except (Undecided, Raised):
            raise
        except Exception as exc:
            raise Raised(type(exc).__name__, str(exc)) from exc
