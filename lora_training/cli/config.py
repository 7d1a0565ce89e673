"""`lora config`: check, show, explain, schema, import, new."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lora_training import shell
from lora_training.cli.app import Group
from lora_training.cli.output import ProgressLine, answer, json_option, keys, print_json, say, sets_option

if TYPE_CHECKING:
    from lora_training.app.checkout import Checkout

_file = click.Path(path_type=Path, dir_okay=False)
_force = click.option("--force", is_flag=True, help="Write over an existing file.")
_tree = click.option(
    "--tree",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Another tree of sd-scripts than the pinned one.",
)


def _presets(_context: click.Context, _option: click.Parameter, incomplete: str) -> list[str]:
    """Return the presets for the shell's completion."""
    from lora_training import workspace
    from lora_training.config import presets

    return [name for name in presets.names(workspace.find().root / "configs") if name.startswith(incomplete)]


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def config() -> None:
    """Configurations: one TOML file for each training, checked against the pinned sd-scripts."""


@config.command()
@click.argument("files", nargs=-1, required=True, type=_file)
@click.option("--strict", is_flag=True, help="Let warnings fail too.")
@click.option("--quick", is_flag=True, help="Open none of the models, images and caches that FILES name.")
@sets_option
@_tree
@json_option
def check(
    files: tuple[Path, ...], *, strict: bool, quick: bool, sets: tuple[str, ...], tree: Path | None, as_json: bool
) -> None:
    """Report every problem of FILES and of the files that they name. Exit code 1 when there is an error."""
    here = _checkout(tree)
    progress = ProgressLine()
    reports = [here.report(file, sets, progress, quick=quick) for file in files]
    document = {"files": [report.as_json() for report in reports]}
    answer(document, (line for report in reports for line in report.lines()), as_json=as_json)
    if any(report.count("error") or (strict and report.count("warning")) for report in reports):
        click.get_current_context().exit(1)


@config.command()
@click.argument("file", type=_file)
@click.option("--as", "form", type=click.Choice(["toml", "argv", "json", "sh"]), default="toml", show_default=True)
@click.option("--origin", is_flag=True, help="Say where each value came from.")
@sets_option
@_tree
@json_option
def show(file: Path, *, form: str, origin: bool, sets: tuple[str, ...], tree: Path | None, as_json: bool) -> None:
    """Print FILE with all overrides, as TOML, upstream's arguments, JSON or shell lines."""
    from lora_training.config import show as shown

    here = _checkout(tree)
    loaded = here.load(file, sets)
    if as_json or form == "json":
        print_json(shown.as_json(loaded, here.schema(loaded.script), origins=origin))
    elif form == "toml":
        click.echo(shown.as_toml(loaded, origins=origin), nl=False)
    elif form == "sh":
        click.echo(shown.as_shell(loaded, here.schema(loaded.script), here.tree), nl=False)
    elif origin:
        say(*shown.arguments_with_origins(loaded, here.schema(loaded.script)))
    else:
        say(*shown.arguments(loaded, here.schema(loaded.script)))


@config.command()
@click.option("--script", required=True, help="One of upstream's scripts, such as sdxl_train_network.")
@click.option("--as", "form", type=click.Choice(["text", "json", "jsonschema"]), default="text", show_default=True)
@_tree
@json_option
def schema(*, script: str, form: str, tree: Path | None, as_json: bool) -> None:
    """Print every flag of a script of the pinned sd-scripts."""
    here = _checkout(tree)
    known = here.schema(script)
    if form == "jsonschema":
        from lora_training.config import jsonschema
        from lora_training.runtime import registry

        print_json(jsonschema.of(known, tuple(registry.available())))
    elif as_json or form == "json":
        flags = [flag.public() for flag in known.flags]
        print_json({"script": known.script, "upstream_commit": here.commit(), "flags": flags})
    else:
        say(*(flag.summary for flag in known.flags))


@config.command()
@click.argument("key", shell_complete=keys)
@_tree
@json_option
def explain(key: str, *, tree: Path | None, as_json: bool) -> None:
    """Explain KEY: its help, type, default and scripts, where it has no effect, and how it has changed.

    KEY may also be run, launch, runtime or a runtime patch, and any word of a key's name or help.
    """
    from lora_training.config import explain as explained
    from lora_training.runtime import registry

    patches = {
        each.name: explained.Patch(each.description, each.on_by_default, each.settings) for each in registry.listing()
    }
    found = explained.table(key, patches)
    if found is None:
        here = _checkout(tree)
        found = explained.explain(here.tree, key, patches, cache=here.workspace.cache)
    document, lines = found
    answer(document, lines, as_json=as_json)


@config.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=_file, help="Where to write the configuration; by default it is printed.")
@click.option("--script", help="Which of upstream's scripts, where the file does not say.")
@_force
@_tree
@json_option
def import_(
    file: Path, *, output: Path | None, script: str | None, force: bool, tree: Path | None, as_json: bool
) -> None:
    """Convert another trainer's FILE (`-`: a command line on stdin), with a report of each key."""
    from lora_training.config import document, importers

    here = _checkout(tree)
    source = importers.read(file, sys.stdin.buffer if str(file) == "-" else None)
    imported = importers.convert(source, here.schema, script=script)
    if output:
        document.write(output, imported.toml(), force=force)
    if as_json:
        print_json({**imported.as_json(), "output": str(output) if output else None})
        return
    if not output:
        click.echo(imported.toml(), nl=False)
    say(*imported.report(), f"from {file}" + (f", written to {output}" if output else ""), *imported.next(), err=True)


@config.command()
@click.argument("file", metavar="NAME", type=_file, required=False)
@click.option("--list", "listed", is_flag=True, help="List the presets.")
@click.option("--preset", shell_complete=_presets, help="One of the presets in configs/, without .toml.")
@click.option("--name", help="The LoRA's name, upstream's output_name.")
@click.option("--model", help="The base model: a file, a folder or a hub id.")
@click.option("--images", help="The folder of images.")
@click.option("--output-dir", help="Where the LoRA is to be written.")
@sets_option
@_force
def new(
    file: Path | None,
    *,
    listed: bool,
    preset: str | None,
    name: str | None,
    sets: tuple[str, ...],
    force: bool,
    **given: str | None,
) -> None:
    """Write the configuration NAME from a preset. Paths that are not given are asked for on a terminal."""
    from lora_training import workspace
    from lora_training.config import presets

    folder = workspace.find().root / "configs"
    if listed:
        found = presets.described(folder)
        width = max(map(len, found), default=0)
        say(*(f"{each:{width}}  {text}" for each, text in found.items()))
        return
    if file is None or not file.name:
        raise click.UsageError("NAME must be the name of a file; --list shows the presets")
    chosen = presets.find(folder, preset)
    ask = click.prompt if sys.stdin.isatty() else None
    named = (f"output_name={json.dumps(name)}",) if name else ()
    target = presets.write(chosen, file, given, (*named, *sets), force=force, ask=ask)
    say(f"{target}: written from the preset {chosen.stem}; next: lora config check {shell.quote(str(target))}")


def _checkout(tree: Path | None) -> Checkout:
    # imported here, since `lora config --help` needs nothing of it
    from lora_training.app.checkout import Checkout

    return Checkout(tree)
