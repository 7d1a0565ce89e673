"""`lora runs`: list, show, stop, repeat, compare and remove runs."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lora_training import workspace
from lora_training.app import runs as app
from lora_training.app import slurm
from lora_training.cli.app import Group
from lora_training.cli.output import answer, drop_unread, json_option, print_file, print_json, say
from lora_training.errors import LoraError
from lora_training.supervise import record, run_index

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lora_training.app.removal import Removal
    from lora_training.supervise.record import Record

# the packages that matter most to a training
_TELLING = ("torch", "xformers", "diffusers", "accelerate", "transformers")
# of the runs whose folders are gone
_SHOWN = 5
_yes = click.option("-y", "--yes", is_flag=True, help="Remove without asking.")


def _names(_context: click.Context, _argument: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of the runs for the shell's completion."""
    found = dict.fromkeys(run.name for _, run in run_index.runs(workspace.find()))
    return [name for name in found if name.startswith(incomplete)]


@click.group(cls=Group)
def runs() -> None:
    """The runs that this checkout has started."""


@runs.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List every run, newest first, with its state, attempts and LoRA; before them, those that wait in Slurm."""
    here = workspace.find()
    found, gone, waiting = run_index.runs(here), run_index.gone(here), slurm.waiting(here)
    damaged = run_index.damaged(here)
    if as_json:
        documents = [app.summary(folder, run) for folder, run in found]
        paths = {"gone": list(map(str, gone)), "damaged": list(map(str, damaged))}
        print_json({"runs": documents, **paths, "waiting": waiting})
        return
    say(*(f"{job['name']}: waits in Slurm, job {job['slurm']}: {job['why']}, {job['output']}" for job in waiting))
    if not (found or gone or damaged or waiting):
        say("no run yet: `lora train FILE` starts one")
    for folder, run in found:
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started))
        again = "a rerun, " if run.rerun_of else ""
        count = f"{len(run.attempts)} attempt{'s' * (len(run.attempts) != 1)}"
        say(f"{run.name}: {app.progress(folder, run)}, {again}{count}, {started}, {app.output(folder, run)}")
    say(*(f"{folder.stem}: damaged, {folder} has no record that can be read" for folder in damaged))
    if gone:
        more = [f"and {len(gone) - _SHOWN} more"] if len(gone) > _SHOWN else []
        say(*(f"gone: {folder}" for folder in gone[:_SHOWN]), *more, app.GONE, err=True)


@runs.command()
@click.argument("name", shell_complete=_names)
@json_option
def show(name: str, *, as_json: bool) -> None:
    """Show the record of the run NAME. NAME may be the path of its folder or its LoRA."""
    folder, run = _find(name)
    if as_json:
        print_json(app.document(folder, run))
    else:
        say(*_lines(folder, run))


@runs.command()
@click.argument("name", shell_complete=_names)
@click.option("--now", is_flag=True, help="End at once, without saving: for a training that does not react.")
@json_option
def stop(name: str, *, now: bool, as_json: bool) -> None:
    """Make the run NAME save its state at the next step and end. The same `lora train` goes on from there."""
    folder, run = _find(name, alive=True)
    (app.end if now else app.stop)(folder, run)
    said = f"{run.name}: ends now" if now else f"{run.name}: asked to stop at its next step"
    answer({"name": run.name, "folder": str(folder), "asked": True}, [said], as_json=as_json)


@runs.command()
@click.argument("name", shell_complete=_names)
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Where to; by default NAME.rerun.")
@click.option("--allow-changes", is_flag=True, help="Train even if the inputs of the run have changed since.")
@click.option("-v", "--verbose", is_flag=True, help="Show upstream's own log as it is written.")
@json_option
def rerun(name: str, *, output: Path | None, allow_changes: bool, verbose: bool, as_json: bool) -> None:
    """Train the run NAME again from its record and compare the LoRAs. Exit code 1 when they differ."""
    from lora_training.app import rerun as reruns
    from lora_training.cli.terminal import Terminal

    drop_unread()
    here = workspace.find()
    original = reruns.Original(*_find(name))
    with closing(Terminal(verbose=verbose)) as terminal:
        found = reruns.rerun(here, original, output, terminal, allow_changes=allow_changes)
    document = {**asdict(found), "lora": str(found.lora), "original": str(found.original), "same": found.is_same}
    answer(document, [f"trained   {found.lora}", found.sentence()], as_json=as_json)
    if found.is_same is False:
        click.get_current_context().exit(1)


@runs.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME NAME...", shell_complete=_names)
@json_option
def compare(names: tuple[str, ...], *, as_json: bool) -> None:
    """Show runs beside each other: how far they are, and exactly the keys in which their configurations differ."""
    from lora_training.app import compare as comparing
    from lora_training.app import overview

    if len(names) == 1:
        raise click.UsageError("give two runs to compare, or more")
    chosen = [_find(name) for name in names]
    found = comparing.compare(chosen)
    histories = overview.Histories()
    rows = [overview.row(folder, run, histories.of(folder)) for folder, run in chosen]
    made = [record.MINIATURE if run.is_miniature else run.made_by.get("upstream", "-")[:12] for _, run in chosen]
    if as_json:
        print_json({"runs": rows, "differences": {key: list(values) for key, values in found.keys.items()}})
        return
    table = [["", *(run.name for _, run in chosen)], ["upstream", *made]]
    labels = {"state": "state", "step": "step", "of": "total", "loss": "loss", "s/step": "each"}
    table += [[name, *("-" if row[key] is None else str(row[key]) for row in rows)] for name, key in labels.items()]
    table += [[key, *("not given" if value is None else value for value in each)] for key, each in found.keys.items()]
    widths = [max(len(line[at]) for line in table) for at in range(len(table[0]))]
    for line in table:
        say("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())
    for name in found.unreadable:
        say(f"{name}: its configuration cannot be read")


@runs.command()
@click.argument("name", shell_complete=_names)
@click.option("-f", "--follow", is_flag=True, help="Go on, through later attempts, until the run ends.")
@json_option
def log(name: str, *, follow: bool, as_json: bool) -> None:
    """Print the log of the newest attempt of the run NAME. With --json, the paths of all attempts' logs."""
    if follow and as_json:
        raise click.UsageError("--json gives the paths of the logs, which --follow does not go with")
    folder, run = _find(name, alive=True)
    if as_json:
        paths = list(map(str, run.logs))
        print_json({"name": run.name, "folder": str(folder), "state": app.state(folder, run), "logs": paths})
        return
    shown = None
    for path, data in app.log(folder, follow=follow):
        if path != shown:
            say(f"log       {path}", err=True)
            shown = path
        print_file(data)
    if shown is None:
        raise LoraError(f"{run.name} has no log yet", hint=f"its other files are in {folder}")
    if follow:
        say(f"{name}: {app.state(*_find(str(folder)))}", err=True)


@runs.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=_names)
@click.option("--lora", is_flag=True, help="Also remove the LoRAs and their checkpoints.")
@click.option("--states", "only_states", is_flag=True, help="Remove the saved states alone.")
@_yes
@json_option
def rm(names: tuple[str, ...], *, lora: bool, only_states: bool, yes: bool, as_json: bool) -> None:
    """Remove the saved states, then the records of the runs NAMES. Their LoRAs stay, unless you give --lora.

    A state that another run was started from is removed only where NAME is its folder.
    """
    from lora_training.app import removal

    if lora and only_states:
        raise click.UsageError("--states removes the states alone; leave it out, or --lora")
    here = workspace.find()
    planned = [removal.named(here, name, lora=lora, only_states=only_states) for name in dict.fromkeys(names)]
    freed = _confirmed(planned, (), yes=yes)
    for each in planned:
        removal.remove(here, each)
    _print_removed(planned, (), freed, as_json=as_json)


@runs.command()
@click.option("--states", "with_states", is_flag=True, help="Also remove the saved states of runs that are complete.")
@_yes
@json_option
def prune(*, with_states: bool, yes: bool, as_json: bool) -> None:
    """Take the runs off the list whose folders are gone."""
    from lora_training.app import removal

    here = workspace.find()
    gone, planned = run_index.gone(here), removal.finished(here) if with_states else []
    due = [each for each in planned if each.paths]
    freed = _confirmed(planned, gone, yes=yes) if gone or due else 0
    removal.forget(here, gone)
    for each in due:
        removal.remove(here, each)
    _print_removed(planned, gone, freed, as_json=as_json)


def _find(name: str, *, alive: bool = False) -> tuple[Path, Record]:
    return app.find(workspace.find(), name, alive=alive, note=partial(say, err=True))


def _confirmed(planned: Sequence[Removal], gone: Sequence[Path], *, yes: bool) -> int:
    """Ask whether to remove all that, and return the bytes that are freed. Raises LoraError if it is not confirmed."""
    from lora_training.preflight import disk

    freed = sum(each.size() for each in planned)
    if yes:
        return freed
    say(*(f"to take off the list: {folder}, which is gone" for folder in gone), err=True)
    for each in planned:
        say(*(f"to remove: {path}" for path in each.paths), err=True)
        say(*(f"stays:     {path} ({why})" for path, why in each.stays), err=True)
    if not sys.stdin.isatty():
        raise click.UsageError("without a terminal there is nobody to ask: give --yes to remove all this")
    if not click.confirm(f"Remove this, {disk.shown(freed)}?", err=True):
        raise LoraError("nothing was removed")
    return freed


def _print_removed(planned: Sequence[Removal], gone: Sequence[Path], freed: int, *, as_json: bool) -> None:
    from lora_training.preflight import disk

    if as_json:
        print_json({"removed": [each.as_json() for each in planned], "gone": list(map(str, gone)), "freed": freed})
        return
    for each in planned:
        say(*(f"{each.name}: removed {path}" for path in each.paths))
        say(*(f"{each.name}: {path} stays ({why})" for path, why in each.stays))
    say(*(f"{folder.stem}: off the list, its folder {folder} is gone" for folder in gone))
    removed = any(each.paths for each in planned)
    if removed or not gone:
        say(f"{disk.shown(freed)} freed" if removed else "nothing to remove")


def _lines(folder: Path, run: Record) -> Iterator[str]:
    yield f"{run.name}: {app.progress(folder, run)}" + (f" ({run.why})" if run.why else "")
    yield from (f"config    {run.config}", f"output    {app.output(folder, run)}", f"record    {folder}")
    if run.result:
        yield f"result    {run.result['steps']} steps{_tensors(run.result)}"
    if run.rerun_of:
        yield f"rerun of  {run.rerun_of}"
    if run.start:
        yield f"began at  step {run.start['step']} of {run.start['path']}"
    yield from app.outcome(folder, run)
    yield from (f"made by   {key} {value}" for key, value in run.made_by.items())
    yield from _surroundings(folder)
    for number, attempt in enumerate(run.attempts, 1):
        ended = f"code {attempt['code']}" if "code" in attempt else "not ended"
        yield f"attempt   {number}: from step {attempt['from_step']}, {ended}, {attempt['log']}"
    if (folder / record.COMMAND).is_file():
        yield f"command   {folder / record.COMMAND}"


def _tensors(result: dict[str, Any]) -> str:
    number = f", {result['tensors']} tensors" if "tensors" in result else ""
    return number + (f", sha256 {result['tensors_sha256']}" if "tensors_sha256" in result else "")


def _surroundings(folder: Path) -> Iterator[str]:
    """Yield a summary of the files beside the record; nothing for an older run without them."""
    from lora_training.app import recording

    found = {name: recording.read(folder, name) for name in (recording.INPUTS, recording.ENVIRONMENT)}
    senseless = [name for name in found if (folder / name).exists() and not found[name]]
    try:
        yield from list(_said(*found.values()))
    except (KeyError, TypeError, AttributeError):
        senseless = list(found)
    if senseless:
        yield f"not readable: {' and '.join(senseless)}"


def _said(inputs: dict[str, Any], made_in: dict[str, Any]) -> Iterator[str]:
    for name in ("dataset", "models") if inputs else ():
        yield f"{name:<9} {len(inputs['files'][name])} files, sha256 {inputs[name]}"
    if made_in:
        yield from (f"{name}   {', '.join(made_in[name]) or 'none'}" for name in ("patches", "runtime"))
        known = [f"{name} {made_in['packages'][name]}" for name in _TELLING if name in made_in["packages"]]
        yield f"python    {made_in['python']}, {', '.join(known)}; {made_in['platform']}"
        cards = ", ".join(card["name"] for card in made_in["gpus"])
        yield f"gpus      {cards}, driver {made_in['driver']}" if cards else "gpus      none"
