"""The one function with which a runtime patch wraps a function of upstream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


def wrap(module: ModuleType, name: str, around: Callable[..., Any]) -> None:
    """Wrap `name` of `module`, a function or a method by its dotted path, with `around`.

    Calls become `around(wrapped, instance, args, kwargs)`, as in wrapt. wrapt is imported here, not at the top of a
    patch, since importing it would slow down commands that only list the patches.
    """
    from wrapt import wrap_function_wrapper

    wrap_function_wrapper(module, name, around)
