"""`lora config`: check, show, explain, schema, import, new."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lora_training import shell
from lora_training.app.checkout import Checkout
from lora_training.cli.app import Group
from lora_training.cli.output import ProgressLine, json_option, print_json, say

if TYPE_CHECKING:
    from lora_training.config import Config
    from lora_training.config.importers import Imported
    from lora_training.config.schema import Flag, Schema
    from lora_training.problems import Problem

_UPSTREAM = "sd-scripts"
_SHOWN, _WIDEST = 1000, 60  # rows of a report, and characters of a key in it
_file = click.Path(path_type=Path, dir_okay=False)
_sets = click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a value; may be repeated.")
_tree = click.option(
    "--tree",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Another tree of sd-scripts than the pinned one.",
)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def config() -> None:
    """Configurations: one TOML file for each training, checked against the pinned sd-scripts."""


# -- check


@config.command()
@click.argument("files", nargs=-1, required=True, type=_file)
@click.option("--strict", is_flag=True, help="Let warnings fail too.")
@click.option("--quick", is_flag=True, help="Open none of the models, images and caches that FILES name.")
@_sets
@_tree
@json_option
def check(
    files: tuple[Path, ...], *, strict: bool, quick: bool, sets: tuple[str, ...], tree: Path | None, as_json: bool
) -> None:
    """Report every problem of FILES and of the files that they name. Exit code 1 when there is an error."""
    here = Checkout(tree)
    progress = ProgressLine()
    results = {file: here.check(file, sets, progress, quick=quick) for file in files}
    right = [file for file, found in results.items() if not any(each.severity == "error" for each in found)]
    exchanged = {file: here.exchanged(file, sets) for file in right}
    if as_json:
        rows = [{**_checked(file, found), "exchanged": exchanged.get(file)} for file, found in results.items()]
        print_json({"files": rows})
    else:
        for file, found in results.items():
            _print_problems(file, found)
            if exchanged.get(file):
                say(f"{file}: {exchanged[file]}")
    failing = ("error", "warning") if strict else ("error",)
    if any(problem.severity in failing for found in results.values() for problem in found):
        click.get_current_context().exit(1)


def _checked(file: Path, found: tuple[Problem, ...]) -> dict[str, Any]:
    return {
        "file": str(file),
        "errors": sum(problem.severity == "error" for problem in found),
        "warnings": sum(problem.severity == "warning" for problem in found),
        "problems": [_problem(problem) for problem in found],
    }


def _problem(problem: Problem) -> dict[str, Any]:
    position = problem.position
    return {
        "severity": problem.severity,
        "where": problem.where,
        "line": position.line if position else None,
        "column": position.column if position else None,
        "key": problem.key,
        "message": problem.message,
        "hint": problem.hint,
    }


def _print_problems(file: Path, found: tuple[Problem, ...]) -> None:
    for problem in found:
        say(f"{problem.place}: {problem.severity}: {problem.message}")
        for line in (problem.hint or "").splitlines():
            say(f"    hint: {line}")
    counted = _checked(file, found)
    say(f"{file}: {_count(counted['errors'], 'error')}, {_count(counted['warnings'], 'warning')}")


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


# -- show


@config.command()
@click.argument("file", type=_file)
@click.option("--as", "form", type=click.Choice(["toml", "argv", "json", "sh"]), default="toml", show_default=True)
@click.option("--origin", is_flag=True, help="Say where each value came from.")
@_sets
@_tree
@json_option
def show(file: Path, *, form: str, origin: bool, sets: tuple[str, ...], tree: Path | None, as_json: bool) -> None:
    """Print FILE with all overrides, as TOML, upstream's arguments, JSON or shell lines."""
    from lora_training.config import show as shown

    here = Checkout(tree)
    loaded = here.load(file, sets)
    if as_json or form == "json":
        print_json(shown.as_json(loaded, here.schema(loaded.script), origins=origin))
    elif form == "toml":
        click.echo(shown.as_toml(loaded, origins=origin), nl=False)
    elif form == "sh":
        click.echo(shown.as_shell(loaded, here.schema(loaded.script), here.tree), nl=False)
    else:
        _show_argv(loaded, here.schema(loaded.script), origin=origin)


def _show_argv(loaded: Config, known: Schema, *, origin: bool) -> None:
    from lora_training.config import argv, show

    if not origin:
        say(*show.arguments(loaded, known))
        return
    show.arguments(loaded, known)  # raises for a value that cannot be passed as an argument
    for entry in loaded.entries.values():
        words = argv.encoded(loaded, known, entry)
        text = shell.join(words) if isinstance(words, list) and words else f"(no {entry.key})"
        say(f"{text}  # {show.origin(entry)}")


# -- schema


@config.command()
@click.option("--script", required=True, help="One of upstream's scripts, such as sdxl_train_network.")
@click.option("--as", "form", type=click.Choice(["text", "json", "jsonschema"]), default="text", show_default=True)
@_tree
@json_option
def schema(*, script: str, form: str, tree: Path | None, as_json: bool) -> None:
    """Print every flag of a script of the pinned sd-scripts."""
    here = Checkout(tree)
    known = here.schema(script)
    if form == "jsonschema":
        from lora_training.config import jsonschema
        from lora_training.config import schema as schemas
        from lora_training.runtime import registry

        print_json(jsonschema.of(known, schemas.scripts(here.tree), tuple(registry.available())))
    elif as_json or form == "json":
        flags = [flag.public() for flag in known.flags]
        print_json({"script": known.script, "upstream_commit": here.commit(), "flags": flags})
    else:
        for flag in known.flags:
            say(_one_line(flag))


def _one_line(flag: Flag) -> str:
    kind = "switch" if flag.is_switch else (flag.type or "str") + ("*" if flag.is_list else "")
    choices = f" ({', '.join(str(c) for c in flag.choices if c is not None)})" if flag.choices else ""
    default = "" if flag.default in (None, False) else f" = {flag.default!r}"
    return f"{flag.dest}: {kind}{choices}{default}"


# -- explain


@config.command()
@click.argument("key")
@_tree
@json_option
def explain(key: str, *, tree: Path | None, as_json: bool) -> None:
    """Explain KEY: its help, type, default and scripts, where it has no effect, and how it has changed."""
    from lora_training.config import explain as explained

    here = Checkout(tree)
    found = explained.explain(here.tree, key, cache=here.workspace.cache)
    if as_json:
        print_json(explained.as_json(found))
    else:
        say(*explained.lines(found))


# -- import


@config.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=_file, help="Where to write the configuration; by default it is printed.")
@click.option("--script", help="Which of upstream's scripts, where the file does not say.")
@click.option("--force", is_flag=True, help="Write over an existing file.")
@_tree
@json_option
def import_(
    file: Path, *, output: Path | None, script: str | None, force: bool, tree: Path | None, as_json: bool
) -> None:
    """Convert another trainer's FILE (`-`: a command line on stdin), with a report of each key."""
    from lora_training.config import importers

    here = Checkout(tree)
    source = importers.read(file, sys.stdin.buffer if str(file) == "-" else None)
    imported = importers.convert(source, here.schema, script=script)
    if output:
        _write(output, imported.toml(), force=force)
    if as_json:
        print_json({**imported.as_json(), "output": str(output) if output else None})
        return
    if not output:
        click.echo(imported.toml(), nl=False)
    _print_report(imported)


def _print_report(imported: Imported) -> None:
    rows = imported.rows[:_SHOWN]
    width = min(max((len(row.key) for row in rows), default=0), _WIDEST)
    for row in rows:
        arrow = f" -> {row.to}" if row.to else ""
        note = f" ({row.note})" if row.note else ""
        outcome = "left out" if row.outcome == "defaulted" else row.outcome
        say(f"{outcome:9} {row.key:{width}}{arrow}{note}", err=True)
    if len(imported.rows) > _SHOWN:
        say(f"... and {len(imported.rows) - _SHOWN} more, which --json shows", err=True)
    say(f"{imported.kind}: {imported.summary()}", err=True)


# -- new


@config.command()
@click.argument("name", type=_file)
@click.option("--preset", help="One of the presets in configs/, without .toml.")
@click.option("--model", help="The base model: a file, a folder or a hub id.")
@click.option("--images", help="The folder of images.")
@click.option("--output-dir", help="Where the LoRA is to be written.")
@_sets
@click.option("--force", is_flag=True, help="Write over an existing file.")
def new(name: Path, *, preset: str | None, sets: tuple[str, ...], force: bool, **given: str | None) -> None:
    """Write the configuration NAME from a preset. Paths that are not given are asked for on a terminal."""
    from lora_training import workspace
    from lora_training.config import presets

    if not name.name:
        raise click.UsageError("NAME must be the name of a file")
    here = workspace.find()
    chosen = presets.find(here.root / "configs", preset)
    asking = sys.stdin.isatty()
    target = name if name.suffix == ".toml" else name.with_name(f"{name.name}.toml")
    answers = {}
    for key, (question, default) in presets.questions(chosen).items():
        answer = given.get(key) or (click.prompt(question, default=default) if asking else default)
        is_folder = key in ("images", "output_dir")
        answers[key] = (
            presets.as_seen_from(target.parent, answer, is_folder=is_folder) if answer != default else default
        )
    _write(target, presets.fill(chosen, answers, sets), force=force)
    say(f"{target}: written from the preset {chosen.stem}; next: lora config check {target}")


def _write(path: Path, text: str, *, force: bool) -> None:
    """Write a file atomically. Raises ConfigError if it exists and `force` is not set."""
    from lora_training import files
    from lora_training.errors import ConfigError

    if not force and os.path.lexists(path):
        raise ConfigError(f"{path} exists", hint="choose another name, or give --force")
    try:
        files.write(path, text)
    except OSError as exc:
        raise ConfigError(f"cannot write {path}: {exc.strerror}") from None
