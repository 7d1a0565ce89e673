"""Check the class names that flags give to upstream, which imports the classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lora_training import nearest
from lora_training.config.schema import source

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from lora_training.config.checks.view import View
    from lora_training.problems import Problem


def problems(
    view: View,
    key: str,
    name: str,
    home: str,
    installed: Callable[[str], bool] | None,
    *,
    own: Collection[str] = (),
) -> Iterator[Problem]:
    """Yield the problems with a class, `package.module.Class` or a class of the module `home`.

    `own` has the names that upstream accepts besides classes.
    """
    # upstream imports from `home` whether the name is given in full or not
    bare = name.removeprefix(f"{home}.")
    module, _, last = bare.rpartition(".")
    if module and not last[:1].isupper():
        # upstream calls any object of that name; torch.save, for example, would overwrite a file
        yield view.problem(f"`{key}`: `{name}` is no class", key, hint="a class's name begins with a capital")
    elif module:
        there = installed is None or not installed(name.partition(".")[0])  # a missing package has been reported
        if not there and not source.is_module(module, view.schema.tree or Path()):
            yield view.problem(f"`{key}`: there is no module `{module}`", key)
    if module:
        return
    public = source.classes(home) if installed else frozenset()
    if bare in public:
        return
    hint = nearest.hint(bare, [*own, *public]) or "a class of another package is written with its module: package.Class"
    if public:
        yield view.problem(f"neither upstream nor {home} has `{bare}`", key, hint=hint)
    else:
        message = f"upstream has no `{name}`; whether {home} has it cannot be told here"
        yield view.problem(message, key, hint=hint, severity="warning")
