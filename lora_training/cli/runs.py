"""`lora runs`: what was trained, what is being trained, and how to end it."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lora_training import workspace
from lora_training.cli.output import json_option, print_json
from lora_training.errors import LoraError
from lora_training.supervise import record, shelf

if TYPE_CHECKING:
    from lora_training.supervise.record import Record


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def runs() -> None:
    """The runs that this checkout has started."""


@runs.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """Every run, newest first: its name, state, attempts and where its LoRA is."""
    found = shelf.runs(workspace.find())
    if as_json:
        print_json({"runs": [_document(folder, run) for folder, run in found]})
        return
    for folder, run in found:
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started))
        click.echo(f"{run.name}: {_state(folder, run)}, {len(run.attempts)} attempts, {started}, {run.output}")


@runs.command()
@click.argument("name")
@json_option
def show(name: str, *, as_json: bool) -> None:
    """All that is known of the run NAME (or of the one whose folder or LoRA NAME is)."""
    folder, run = _one(name)
    if as_json:
        print_json(_document(folder, run))
        return
    click.echo(f"{run.name}: {_state(folder, run)}" + (f" ({run.why})" if run.why else ""))
    click.echo(f"config    {run.config}\noutput    {run.output}\nrecord    {folder}")
    for key, value in run.made_by.items():
        click.echo(f"made by   {key} {value}")
    for number, attempt in enumerate(run.attempts, 1):
        ended = f"code {attempt['code']}" if "code" in attempt else "not ended"
        click.echo(f"attempt   {number}: from step {attempt['from_step']}, {ended}, {attempt['log']}")
    click.echo(f"command   {run.command}")


@runs.command()
@click.argument("name")
def stop(name: str) -> None:
    """Have the run NAME save its state at the next step and end; the same `lora train` goes on from there."""
    folder, run = _one(name)
    if not record.is_alive(folder):
        raise LoraError(f"{run.name} is not running", hint="`lora runs list` shows what is")
    (folder / record.STOP).touch()
    click.echo(f"{run.name}: asked to stop at its next step")


def _one(name: str) -> tuple[Path, Record]:
    found = shelf.runs(workspace.find())
    path = Path(name).absolute()
    matching = [(folder, run) for folder, run in found if name == run.name or path in (folder, Path(run.output))]
    if not matching:
        known = ", ".join(dict.fromkeys(run.name for _, run in found)) or "none yet"
        raise LoraError(f"there is no run {name!r}", hint=f"runs: {known}")
    if len(matching) > 1:
        places = "\n".join(str(folder) for folder, _ in matching)
        raise LoraError(f"there are {len(matching)} runs {name!r}", hint=f"name one by its folder:\n{places}")
    return matching[0]


def _state(folder: Path, run: Record) -> str:
    """What the record says, but for a run whose process went without a word."""
    return "died" if run.state == "running" and not record.is_alive(folder) else run.state


def _document(folder: Path, run: Record) -> dict[str, Any]:
    return {"folder": str(folder), **asdict(run), "state": _state(folder, run)}
