"""The one way in which a runtime patch gets between a function of upstream's and its callers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


def wrap(module: ModuleType, name: str, around: Callable[..., Any]) -> None:
    """Have `name` of `module`, a function or a method by its dotted path, called as `around` says.

    That is `around(wrapped, instance, args, kwargs)`, as wrapt has it. wrapt is imported here, and not at the top of a
    patch, since a command line that only lists the patches would wait for it.
    """
    from wrapt import wrap_function_wrapper

    wrap_function_wrapper(module, name, around)
