"""What a flag's type function makes of a word, without importing upstream."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

from lora_training.config.schema.values import Function, Raised, Scope, Undecided

if TYPE_CHECKING:
    from lora_training.config.schema.flags import Flag

_NEGATIVE = re.compile(r"-\d+$|-\d*\.\d+$")  # argparse's own
_PYTHON = {"int": int, "float": float, "str": str, "Path": str, None: str}


def is_negative_number(word: str) -> bool:
    """Whether argparse takes a word with a leading `-` for a value."""
    return bool(_NEGATIVE.match(word))


def converted(flag: Flag, word: str) -> Any:
    """What upstream's parser makes of `word`. Raises Raised when it refuses it, Undecided when that cannot be read."""
    if flag.type in _PYTHON:
        try:
            return _PYTHON[flag.type](word)
        except ValueError as exc:
            raise Raised("ValueError", str(exc)) from None
    if flag.type_source is None:
        raise Undecided(str(flag.type))
    return _run(flag.type_source, word)


def refusal(flag: Flag, word: str) -> str | None:
    """Why upstream's parser would refuse `word`, or None."""
    try:
        converted(flag, word)
    except Raised as exc:
        return exc.message or exc.name
    except Undecided:
        return None
    return None


def chosen(flag: Flag, word: str) -> bool:
    """Whether `word` is one of the flag's choices, once converted."""
    try:
        return converted(flag, word) in (flag.choices or ())
    except Undecided:
        return True


def _run(source: str, word: str) -> Any:
    from lora_training.config.schema.interp import Interpreter
    from lora_training.config.schema.source import Module, Tree

    interpreter = Interpreter(Tree.nowhere())
    body = ast.parse(source)
    module = Module("type", "type", body, is_package=False)
    (statement,) = body.body
    scope = Scope(module, module.names)
    if isinstance(statement, ast.FunctionDef):
        interpreter.run(statement, scope)
        function = module.names[statement.name]
    else:
        function = interpreter.evaluate(statement.value, scope) if isinstance(statement, ast.Expr) else None
    if not isinstance(function, Function):
        raise Undecided(source)
    return function(word)
