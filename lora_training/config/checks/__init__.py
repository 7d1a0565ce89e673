"""The check before anything starts: every problem of a configuration at once, each with its place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Any

from lora_training import shell
from lora_training.config import inputs
from lora_training.config.argv import encoded
from lora_training.config.checks import (
    buckets,
    datasets,
    family,
    files,
    flags,
    naming,
    network,
    optimizer,
    rules,
    scheduler,
    written,
)
from lora_training.config.checks import (
    machine as machines,
)
from lora_training.config.checks.view import View
from lora_training.config.document import Unreadable
from lora_training.config.loading import load
from lora_training.config.model import Problem
from lora_training.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from lora_training.config.model import Config
    from lora_training.config.schema import Schema

__all__ = ["Machine", "check", "file", "installed_here", "require"]

_MOST = 100


@dataclass(frozen=True)
class Machine:
    """What a check needs to know of the place that trains; None for what is not known, which is then not checked.

    `runtime` is the names of the runtime patches there are; `installed` says whether a package is there; `settings`
    says what is wrong with the settings in `[runtime]`, by patch; `files` looks into the files of a configuration;
    `has_gpu` says whether there is one to train on. `trains`: this very machine is about to.
    """

    runtime: Collection[str] | None = None
    installed: Callable[[str], bool] | None = None
    settings: Callable[[Mapping[str, Any]], Mapping[str, Iterable[Any]]] | None = None
    files: Callable[[Config, Schema], Iterable[Problem]] | None = None
    has_gpu: Callable[[], bool] | None = None
    trains: bool = False


def check(
    config: Config,
    schema: Schema,
    machine: Machine = Machine(),
) -> tuple[Problem, ...]:
    """Every problem of `config`, errors and warnings, in the order of the file."""
    view = View(config, schema, _refused(config, schema))
    found = [*_first(config, config.problems), *_first(config, flags.problems(config, schema)), *flags.required(view)]
    found += [
        *_first(config, datasets.problems(view)),
        *rules.problems(view),
        *_first(config, buckets.problems(view)),
        *family.problems(view),
    ]
    found += [*network.problems(view), *optimizer.problems(view, machine.installed), *files.problems(view)]
    found += [*naming.problems(view), *scheduler.problems(view, machine.installed), *written.problems(view)]
    if machine.has_gpu is not None:
        found += machines.problems(view, machine.has_gpu, trains=machine.trains)
    if machine.runtime is not None:
        found += flags.runtime(config, machine.runtime)
    if machine.settings is not None:
        found += flags.settings(config, machine.settings(config.runtime))
    if machine.files is not None and not any(_is_of_data(problem) for problem in found):
        right = {key: entry for key, entry in config.entries.items() if key not in view.refused}
        found += machine.files(replace(config, entries=right), schema)
    return _sorted(found)


def _first(config: Config, problems: Iterable[Problem]) -> Iterator[Problem]:
    """A hundred of `problems`: each may be a search for the nearest name, and who has more mends those first."""
    left = iter(problems)
    yield from islice(left, _MOST)
    if next(left, None) is not None:
        yield config.problem(f"there are more than {_MOST} problems of this kind", ())


def _is_of_data(problem: Problem) -> bool:
    """Whether an error leaves it unclear which images are meant."""
    place = (problem.key or "").partition(".")[0]
    return problem.severity == "error" and place in ("datasets", "general", *inputs.DATA)


def file(
    path: Path,
    read: Callable[[str], Schema],
    *,
    sets: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    machine: Machine = Machine(),
) -> tuple[Problem, ...]:
    """Every problem of a file, also one that is no TOML document or names no script of upstream's.

    `read` gives the schema of a script; it raises ConfigError when there is no such script.
    """
    try:
        config = load(path, sets=sets, environ=environ)
    except Unreadable as exc:
        return (exc.problem,)
    except ConfigError as exc:
        return (Problem(exc.message, exc.hint, where=str(path)),)
    if not config.script:
        return _sorted(config.problems)
    try:
        schema = read(config.script)
    except ConfigError as exc:
        return _sorted([*config.problems, config.problem(exc.message, ("script",), hint=exc.hint)])
    return check(config, schema, machine)


def installed_here() -> Callable[[str], bool] | None:
    """Whether this very environment has a package; None when it is not one that trains, having no torch."""
    if find_spec("torch") is None:
        return None
    return lambda package: find_spec(package) is not None


def require(config: Config, problems: Collection[Problem]) -> None:
    """Raise ConfigError when any of `problems` is an error: the first one, with the others in the hint."""
    errors = [problem for problem in problems if problem.severity == "error"]
    if not errors:
        return
    first, *rest = errors
    more = [f"{problem.place}: {problem.message}" for problem in rest]
    same = " with the same --set and LORA_* shows" if any(each.position is None for each in errors) else " shows"
    hint = "\n".join(
        [
            *([first.hint] if first.hint else []),
            *more,
            f"`lora config check {shell.quote(str(config.path))}`{same} all of it",
        ]
    )
    raise ConfigError(f"{first.place}: {first.message}", hint=hint)


def _refused(config: Config, schema: Schema) -> frozenset[str]:
    """The keys whose values no other rule should look at."""
    return frozenset(
        key
        for key, entry in config.entries.items()
        if schema.flag(key) is None or isinstance(encoded(config, schema, entry), Problem)
    )


def _sorted(found: Collection[Problem]) -> tuple[Problem, ...]:
    def order(problem: Problem) -> tuple[bool, int, int]:
        place = problem.position
        return (place is None, place.line if place else 0, place.column if place else 0)

    unique = dict.fromkeys(found)
    return tuple(sorted(unique, key=order))
