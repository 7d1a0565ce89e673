"""The check before anything starts: every problem of a configuration at once, each with its place."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lora_training.config.argv import encoded
from lora_training.config.check import buckets, datasets, family, files, flags, optimizer, rules
from lora_training.config.check.view import View
from lora_training.config.model import Problem
from lora_training.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from lora_training.config.model import Config
    from lora_training.config.schema import Schema

__all__ = ["check", "require", "without_schema"]


def check(
    config: Config,
    schema: Schema,
    *,
    runtime: Collection[str] | None = None,
    installed: Callable[[str], bool] | None = None,
) -> tuple[Problem, ...]:
    """Every problem of `config`, errors and warnings, in the order of the file.

    `runtime` is the names of the runtime patches there are, and `installed` says whether the environment that trains
    has a package; without them that is not checked.
    """
    view = View(config, schema, _refused(config, schema))
    found = [*config.problems, *flags.problems(config, schema), *flags.required(view)]
    found += [*datasets.problems(view), *rules.problems(view), *buckets.problems(view), *family.problems(view)]
    found += [*optimizer.problems(view, installed), *files.problems(view)]
    if runtime is not None:
        found += flags.runtime(config, runtime)
    return _sorted(found)


def without_schema(config: Config) -> tuple[Problem, ...]:
    """What can be said of a configuration whose script is not known."""
    return _sorted(config.problems)


def require(config: Config, problems: Collection[Problem]) -> None:
    """Raise ConfigError when any of `problems` is an error: the first one, with the others in the hint."""
    errors = [problem for problem in problems if problem.severity == "error"]
    if not errors:
        return
    first, *rest = errors
    more = [f"{problem.place}: {problem.message}" for problem in rest]
    hint = "\n".join(
        [*([first.hint] if first.hint else []), *more, f"`lora config check {config.path}` shows all of it"]
    )
    raise ConfigError(f"{first.place}: {first.message}", hint=hint)


def _refused(config: Config, schema: Schema) -> frozenset[str]:
    """The keys whose values no other rule should look at."""
    return frozenset(k for k, entry in config.entries.items() if isinstance(encoded(config, schema, entry), Problem))


def _sorted(found: Collection[Problem]) -> tuple[Problem, ...]:
    def order(problem: Problem) -> tuple[bool, int, int]:
        place = problem.position
        return (place is None, place.line if place else 0, place.column if place else 0)

    unique = {replace(problem): None for problem in found}
    return tuple(sorted(unique, key=order))
