"""Check a configuration before anything starts, and report all problems at once, each with its position."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from lora_training import shell
from lora_training.config.argv import encoded
from lora_training.config.checks import datasets, files, flags, optimizer, rules
from lora_training.config.checks import machine as machines
from lora_training.config.checks.machine import Machine, installed_here
from lora_training.config.checks.view import View
from lora_training.config.document import Unreadable
from lora_training.config.files import DATA
from lora_training.config.loading import load
from lora_training.config.model import Config
from lora_training.config.schema import Schema
from lora_training.errors import ConfigError
from lora_training.problems import Position, Problem, as_hint

__all__ = ["Machine", "check", "file", "installed_here", "require"]

_MOST = 100
_UNKNOWN = Machine()


def check(config: Config, schema: Schema, machine: Machine = _UNKNOWN) -> tuple[Problem, ...]:
    """Return all errors and warnings about `config`, in the order of the file."""
    encodings = {key: encoded(config, schema, entry) for key, entry in config.entries.items()}
    view = View(config, schema, {key: found for key, found in encodings.items() if isinstance(found, Problem)})
    found = [
        *_first(config, config.problems),
        *_first(config, flags.problems(view, machine.runtime or ())),
        *flags.required(view),
        *_first(config, datasets.problems(view)),
        *rules.problems(view),
        *_first(config, datasets.sizes(view)),
        *optimizer.problems(view, machine.installed),
        *files.problems(view),
        *flags.written(view),
        *machines.problems(view, machine),
    ]
    if machine.runtime is not None:
        found += flags.runtime(view, machine.runtime)
    if machine.settings is not None:
        found += flags.settings(view, machine.settings(config.runtime))
    if machine.files is not None:
        found += _of_files(view, machine.files, without_data=any(map(_is_of_data, found)))
    return _sorted(found)


def _of_files(
    view: View, check: Callable[[Config, Schema], Iterable[Problem]], *, without_data: bool
) -> Iterable[Problem]:
    """Check the files of a configuration, as far as its values are right; of an unclear data set the models alone."""
    right = {key: entry for key, entry in view.config.entries.items() if key not in view.refused}
    if not without_data:
        return check(replace(view.config, entries=right), view.schema)
    right = {key: entry for key, entry in right.items() if key not in DATA}
    models = replace(view.config, entries=right, datasets=(), general={})
    return (problem for problem in check(models, view.schema) if problem.key in {*right, "launch"})


def _first(config: Config, problems: Iterable[Problem]) -> Iterator[Problem]:
    """Yield at most a hundred problems of one kind, since each may search for the nearest name, which is slow."""
    left = iter(problems)
    yield from islice(left, _MOST)
    if next(left, None) is not None:
        yield config.problem(f"there are more than {_MOST} problems of this kind", ())


def _is_of_data(problem: Problem) -> bool:
    """Whether an error is about the data, but for its captions, so that the images to check are not known."""
    words = (problem.key or "").split(".")
    # a flag may be in a table of any name
    about_data = words[0] in ("datasets", "general") or words[-1] in DATA
    return problem.severity == "error" and about_data and words[-1] != "caption_extension"


def file(
    path: Path,
    read: Callable[[str], Schema],
    *,
    sets: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    machine: Machine = _UNKNOWN,
    text: str | None = None,
) -> tuple[Problem, ...]:
    """Check a file, or `text` in its place, also one that is not valid TOML or names an unknown script.

    `read` returns the schema of a script; it raises ConfigError if there is no such script.
    """
    try:
        config = load(path, sets=sets, environ=environ, text=text)
    except Unreadable as exc:
        return (exc.problem,)
    except ConfigError as exc:
        message = exc.message.removeprefix("--set ")
        return (Problem(message, exc.hint, where=str(path) if message == exc.message else "--set"),)
    if not config.script:
        return _sorted(config.problems)
    try:
        schema = read(config.script)
    except ConfigError as exc:
        return _sorted([*config.problems, config.problem(exc.message, ("script",), hint=exc.hint)])
    return check(config, schema, machine)


def require(config: Config, problems: Collection[Problem]) -> None:
    """Raise ConfigError if any of `problems` is an error, with the first one as message and the others in the hint."""
    errors = [problem for problem in problems if problem.severity == "error"]
    if not errors:
        return
    same = " with the same --set and LORA_*" if any(each.position is None for each in errors) else ""
    last = f"`lora config check {shell.quote(str(config.path))}`{same} says it without starting"
    raise ConfigError(str(errors[0]), hint=f"{as_hint(errors)}\n{last}".strip())


def _sorted(found: Collection[Problem]) -> tuple[Problem, ...]:
    last = Position(sys.maxsize, 0)
    return tuple(sorted(dict.fromkeys(found), key=lambda problem: problem.position or last))
