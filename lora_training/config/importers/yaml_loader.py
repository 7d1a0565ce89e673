"""PyYAML's safe loader with a limit on the length of numbers. Importing this module imports PyYAML."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable

_DIGITS = 100
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _bounded(construct: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Limit a number's constructor to a hundred characters: base-60 numbers take quadratic time."""

    def constructor(loader: Any, node: Any) -> Any:
        if len(node.value) > _DIGITS:
            message = f"a number of more than {_DIGITS} characters"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
        return construct(loader, node)

    return constructor


Loader: Any = type("Loader", (_BASE,), {})
Loader.add_constructor("tag:yaml.org,2002:int", _bounded(_BASE.construct_yaml_int))
Loader.add_constructor("tag:yaml.org,2002:float", _bounded(_BASE.construct_yaml_float))
