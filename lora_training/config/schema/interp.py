"""A small reader of Python: runs the statements that build a parser or a table of types, and nothing else.

It works on any source made of ordinary statements, so a flag that upstream adds or moves needs no change here. What
depends on the machine, or is outside the tree, is a Symbol; a decision that hangs on one is an UpstreamError that
names the file and line.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any, NoReturn

from lora_training.config.schema import nodes
from lora_training.config.schema.expressions import Expressions
from lora_training.config.schema.natives import builtin, native
from lora_training.config.schema.source import Lazy, Module, Tree
from lora_training.config.schema.values import Class, Function, Raised, Scope, Static, Symbol, SymbolCall, Undecided
from lora_training.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import Sequence

_BUDGET = 500_000  # statements; upstream's largest parser takes about 2,000
_SKIPPED = (ast.Pass, ast.Global, ast.Nonlocal, ast.Delete)


class _Return(Exception):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


class _Loop(Exception):
    def __init__(self, *, ends: bool) -> None:
        super().__init__()
        self.ends = ends


class Interpreter(Expressions):
    """Reads one tree. Modules are run once, when one of their names is first asked for."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._left = _BUDGET
        self._where = ""

    def call_name(self, module: str, name: str, *args: Any) -> Any:
        """Call the function or class `name` of `module`. Raises UpstreamError when it cannot be read."""
        found = self.tree.module(module)
        if found is None:
            raise UpstreamError(f"the upstream tree has no {module}.py", hint="run `lora upstream sync`")
        try:
            return self.call(self.module_attribute(found, name), args, {})
        except (Undecided, Raised) as exc:
            raise UpstreamError(f"cannot read {name}() of {module}.py: {exc} (at {self._where})") from exc
        except RecursionError:
            raise UpstreamError(f"cannot read {name}() of {module}.py: it calls itself without end") from None

    # -- names

    def name(self, name: str, scope: Scope) -> Any:
        """The value of a name: local, enclosing, global, builtin, in that order."""
        current: Scope | None = scope
        while current is not None:
            if name in current.names:
                return self._settled(current.names, name)
            current = current.outer
        self._run_module(scope.module)
        if name in scope.module.names:
            return self._settled(scope.module.names, name)
        return builtin(name)

    def _settled(self, names: dict[str, Any], name: str) -> Any:
        value = names[name]
        if isinstance(value, Lazy):
            value = names[name] = self._import(value)
        return value

    def _import(self, lazy: Lazy) -> Any:
        module = self.tree.module(lazy.module)
        if lazy.attribute is None:
            return module or native(lazy.module)
        if module is None:
            return native(f"{lazy.module}.{lazy.attribute}")
        return self.module_attribute(module, lazy.attribute)

    def is_module(self, value: Any) -> bool:
        """Whether `value` is a module of the tree."""
        return isinstance(value, Module)

    def module_attribute(self, module: Any, name: str) -> Any:
        """A global of a module, or a module below a package."""
        self._run_module(module)
        if name in module.names:
            return self._settled(module.names, name)
        if module.is_package and (below := self.tree.module(f"{module.name}.{name}")):
            return below
        return Symbol(f"{module.name}.{name}")

    def _run_module(self, module: Module) -> None:
        if module.ran:
            return
        module.ran = True
        scope = Scope(module, module.names)
        for statement in nodes.top_level(module.tree.body):
            self._run_global(statement, scope)

    def _run_global(self, statement: ast.stmt, scope: Scope) -> None:
        """Run a module's statement; what cannot be read leaves its names as Symbols."""
        if isinstance(statement, ast.Expr) and not self._changes_data(statement.value, scope):
            return
        try:
            self.run(statement, scope)
        except (Undecided, Raised, _Return, _Loop):
            for name in nodes.bound(statement):
                scope.names[name] = Symbol(f"{scope.module.name}.{name}")

    def _changes_data(self, node: ast.expr, scope: Scope) -> bool:
        """Whether it is like `CHOICES.append("x")`: upstream's other calls at import configure the process."""
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            return False
        owner = node.func.value
        return isinstance(owner, ast.Name) and isinstance(scope.names.get(owner.id), list | dict | set)

    # -- functions

    def run_function(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Bind the arguments and run the body; the value of `return`, or None."""
        scope = Scope(function.scope.module, self._bind(function, args, dict(kwargs)), function.scope)
        if isinstance(function.node, ast.Lambda):
            return self.evaluate(function.node.body, scope)
        try:
            self.run_all(function.node.body, scope)
        except _Return as exc:
            return exc.value
        return None

    def _bind(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        spec = function.node.args
        positional = [arg.arg for arg in (*spec.posonlyargs, *spec.args)]
        names = dict(zip(positional, args, strict=False))
        defaults = dict(zip(reversed(positional), reversed(spec.defaults), strict=False))
        for arg, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True):
            positional.append(arg.arg)
            if default is not None:
                defaults[arg.arg] = default
        for name in positional:
            if name in kwargs:
                names[name] = kwargs.pop(name)
            elif name not in names:
                if name not in defaults:
                    raise Raised("TypeError", f"{function.__name__}() is not given {name!r}")
                names[name] = self.evaluate(defaults[name], function.scope)
        extra = args[len(spec.posonlyargs) + len(spec.args) :]
        names |= {spec.vararg.arg: extra} if spec.vararg else {}
        names |= {spec.kwarg.arg: kwargs} if spec.kwarg else {}
        return names

    # -- statements

    def run_all(self, statements: Sequence[ast.stmt], scope: Scope) -> None:
        """Run statements in order."""
        for statement in statements:
            self.run(statement, scope)

    def run(self, statement: ast.stmt, scope: Scope) -> None:
        """Run one statement. Raises Undecided, or Raised when the source raises."""
        self._left -= 1
        if self._left < 0:
            raise UpstreamError(f"gave up reading {scope.module.path}: it does not come to an end")
        if isinstance(statement, _SKIPPED):
            return
        method = getattr(self, f"_run_{type(statement).__name__.lower()}", None)
        if method is None:
            raise Undecided(f"{type(statement).__name__} is not read")
        self._where = f"{scope.module.path}:{statement.lineno}"
        method(statement, scope)

    def _run_expr(self, node: ast.Expr, scope: Scope) -> None:
        self.evaluate(node.value, scope)

    def _run_assign(self, node: ast.Assign, scope: Scope) -> None:
        value = self.evaluate(node.value, scope)
        for target in node.targets:
            self.assign(target, value, scope)

    def _run_annassign(self, node: ast.AnnAssign, scope: Scope) -> None:
        if node.value is not None:
            self.assign(node.target, self.evaluate(node.value, scope), scope)

    def _run_augassign(self, node: ast.AugAssign, scope: Scope) -> None:
        current = self.evaluate(nodes.loaded(node.target), scope)
        self.assign(node.target, self.binary(type(node.op), current, self.evaluate(node.value, scope)), scope)

    def _run_if(self, node: ast.If, scope: Scope) -> None:
        self.run_all(node.body if self.truth(node.test, scope) else node.orelse, scope)

    def _run_for(self, node: ast.For, scope: Scope) -> None:
        # a copy: upstream may remove actions from the very list that it walks
        for item in list(self.iterate(self.evaluate(node.iter, scope))):
            self.assign(node.target, item, scope)
            if self._run_turn(node.body, scope):
                return
        self.run_all(node.orelse, scope)

    def _run_while(self, node: ast.While, scope: Scope) -> None:
        while self.truth(node.test, scope):
            if self._run_turn(node.body, scope):
                return

    def _run_turn(self, body: Sequence[ast.stmt], scope: Scope) -> bool:
        """Run a loop's body once; whether the loop ends with it."""
        try:
            self.run_all(body, scope)
        except _Loop as exc:
            return exc.ends
        return False

    def _run_break(self, _node: ast.Break, _scope: Scope) -> NoReturn:
        raise _Loop(ends=True)

    def _run_continue(self, _node: ast.Continue, _scope: Scope) -> NoReturn:
        raise _Loop(ends=False)

    def _run_return(self, node: ast.Return, scope: Scope) -> NoReturn:
        raise _Return(self.evaluate(node.value, scope) if node.value else None)

    def _run_raise(self, node: ast.Raise, scope: Scope) -> NoReturn:
        value = self.evaluate(node.exc, scope) if node.exc else Symbol("re-raised")
        name = getattr(value, "function", None) or getattr(value, "name", None) or getattr(value, "__name__", "")
        args = getattr(value, "args", ())
        raise Raised(str(name or type(value).__name__).rpartition(".")[2], str(args[0]) if args else "")

    def _run_assert(self, node: ast.Assert, scope: Scope) -> None:
        if not self.truth(node.test, scope):
            raise Raised("AssertionError", "")

    def _run_with(self, node: ast.With, scope: Scope) -> None:
        self.run_all(node.body, scope)

    def _run_try(self, node: ast.Try, scope: Scope) -> None:
        try:
            self.run_all(node.body, scope)
        except Raised as exc:
            handler = next((h for h in node.handlers if self._handles(h, exc, scope)), None)
            if handler is None:
                raise
            if handler.name:
                scope.names[handler.name] = SymbolCall(exc.name, (exc.message,), {})
            self.run_all(handler.body, scope)
        else:
            self.run_all(node.orelse, scope)
        finally:
            self.run_all(node.finalbody, scope)

    def _handles(self, handler: ast.ExceptHandler, exc: Raised, scope: Scope) -> bool:
        if handler.type is None:
            return True
        types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        values = [self.evaluate(kind, scope) for kind in types]
        names = {str(getattr(v, "name", getattr(v, "__name__", ""))).rpartition(".")[2] for v in values}
        return bool(names & {exc.name, "Exception", "BaseException"})

    def _run_functiondef(self, node: ast.FunctionDef, scope: Scope) -> None:
        function = Function(node, scope, self.run_function)
        static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
        scope.names[node.name] = Static(function) if static else function

    def _run_classdef(self, node: ast.ClassDef, scope: Scope) -> None:
        inner = Scope(scope.module, {}, scope)
        for statement in node.body:
            self._run_global(statement, inner)
        bases = [self.evaluate(base, scope) for base in node.bases]
        scope.names[node.name] = nodes.enumeration(node.name, bases, inner.names) or Class(
            node.name, inner.names, tuple(base for base in bases if isinstance(base, Class))
        )

    def _run_import(self, node: ast.Import, scope: Scope) -> None:
        for alias in node.names:
            name = alias.name if alias.asname else alias.name.partition(".")[0]
            scope.names[alias.asname or name] = Lazy(name, None)

    def _run_importfrom(self, node: ast.ImportFrom, scope: Scope) -> None:
        source = nodes.absolute(node, scope.module)
        for alias in node.names:
            if alias.name != "*":
                scope.names[alias.asname or alias.name] = Lazy(source, alias.name)
            elif (module := self.tree.module(source)) is not None:
                self._run_module(module)
                scope.names |= {k: v for k, v in module.names.items() if not k.startswith("_")}
