"""Check the network module and its own arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_training import families, nearest
from lora_training.config import paths
from lora_training.config.schema import source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lora_training.config.checks.view import View
    from lora_training.problems import Problem


def problems(view: View) -> Iterator[Problem]:
    """Report an unknown module, one of another model family, and arguments that the module does not read."""
    module, tree = view.value("network_module"), view.schema.tree
    if not isinstance(module, str) or not module.startswith("networks.") or tree is None:
        return
    if not paths.exists(tree / f"{module.replace('.', '/')}.py"):
        known = [f"networks.{path.stem}" for path in sorted((tree / "networks").glob("*.py"))]
        yield view.problem(f"upstream has no module `{module}`", "network_module", hint=nearest.hint(module, known))
        return
    yield from _family(view, module)
    yield from _arguments(view, module, tree)


def _family(view: View, module: str) -> Iterator[Problem]:
    named = (family for family in families.FAMILIES if family.is_flow and module.endswith(f"_{family.name}"))
    other = next((family for family in named if family.script != view.schema.script), None)
    if other:
        message = f"`{module}` is the network of {other.name}, not of {view.schema.script}"
        yield view.problem(message, "network_module", severity="warning")


def _arguments(view: View, module: str, tree: Path) -> Iterator[Problem]:
    known = source.network_arguments(tree, module)
    if known is None:
        return
    for place, name, _ in view.pairs("network_args"):
        if name in known:
            continue
        hint = nearest.hint(name, known)
        message = f"`{module}` reads no argument `{name}`, and ignores it in silence"
        path = (*view.path("network_args"), place)
        legal = f"it reads: {', '.join(sorted(known))}"
        yield view.config.problem(message, path, hint=hint or legal, severity="error" if hint else "warning")
