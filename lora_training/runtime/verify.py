"""Whether the targets of runtime patches are what they were at the pin. Reads source files; imports none of them."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_training.runtime import source

if TYPE_CHECKING:
    import ast
    from collections.abc import Iterable

    from lora_training.runtime.model import RuntimePatch, Target


@dataclass(frozen=True)
class Problem:
    """A target that is not what its patch was made for. `file` is None when the module is nowhere."""

    patch: str
    target: Target
    file: Path | None
    what: str

    def __str__(self) -> str:
        return f"runtime patch {self.patch}: {self.target.name} in {self.file or self.target.module} {self.what}"


def targets(patches: Iterable[RuntimePatch], tree: Path) -> list[Problem]:
    """What is wrong with the targets of `patches`, for a training that runs a script of `tree` in this environment."""
    parsed = functools.cache(source.parse)
    found: dict[tuple[str, Target], Problem] = {}
    for patch in patches:
        for target in patch.targets:
            file = locate(target.module, tree)
            what = _state(target, parsed(file) if file else None)
            if what:
                found[patch.name, target] = Problem(patch.name, target, file, what)
    return list(found.values())


def _state(target: Target, tree: ast.Module | None) -> str | None:
    found = source.digest_in(tree, target.name) if tree else None
    if found == target.digest:
        return None
    return "is missing" if found is None else "is not what it was at the pin"


def locate(module: str, tree: Path) -> Path | None:
    """The file that `import MODULE` would run in a training that runs a script of `tree`."""
    inner = Path(*module.split("."))
    for root in (tree, *map(Path, filter(None, sys.path))):
        for file in (root / inner / "__init__.py", (root / inner).with_suffix(".py")):
            if file.is_file():
                return file
    return None
