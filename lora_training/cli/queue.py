"""`lora queue`: add trainings, order them, and work on them one after the other."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from lora_training import workspace
from lora_training.cli.app import Group
from lora_training.cli.output import answer, drop_unread, json_option, say, sets_option

_FAILED = 6


def slurm_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for Slurm to a command, which gets them as `sbatch`: None, or words for that program."""

    @functools.wraps(command)
    def wrapped(*args: Any, slurm: bool, partition: str | None, options: tuple[str, ...], **kwargs: Any) -> Any:
        if not slurm and (partition or options):
            raise click.UsageError("--partition and --sbatch go with --slurm")
        words = (*((f"--partition={partition}",) if partition else ()), *options)
        return command(*args, sbatch=words if slurm else None, **kwargs)

    for option in (
        click.option(
            "--sbatch", "options", multiple=True, metavar="OPTION", help="One more of its options: --time=8:00:00"
        ),
        click.option("--partition", metavar="NAME", help="The partition of Slurm."),
        click.option("--slurm", is_flag=True, help="Submit it to Slurm, by sbatch."),
    ):
        wrapped = option(wrapped)
    return wrapped


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def queue() -> None:
    """Trainings that wait for their turn."""


@queue.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@sets_option
@slurm_options
@json_option
def add(files: tuple[Path, ...], *, sets: tuple[str, ...], sbatch: tuple[str, ...] | None, as_json: bool) -> None:
    """Check configurations as `lora train` does, and add a job for each; none if one of them is wrong."""
    from lora_training.app import queue as app
    from lora_training.cli.terminal import Terminal

    here = workspace.find()
    with closing(Terminal(verbose=False)) as terminal:
        added = app.add(here, app.Wanted(files, sets, sbatch=sbatch), terminal)
    _answer(added, "nothing was added", as_json=as_json)


@queue.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the jobs in the order in which they are trained, and what became of each."""
    from lora_training.app import queue as app

    _answer(app.show(workspace.find()), "no job yet: `lora queue add FILE` adds one", as_json=as_json)


@queue.command()
@click.argument("name")
@click.option("--before", metavar="NAME", help="The job that follows it then.")
@click.option("--last", is_flag=True, help="To the end.")
@json_option
def move(name: str, *, before: str | None, last: bool, as_json: bool) -> None:
    """Move the job NAME in the order."""
    from lora_training.app import queue as app

    if (before is None) != last:
        raise click.UsageError("say where to: --before NAME or --last")
    _answer([app.move(workspace.find(), name, before)], as_json=as_json)


@queue.command()
@click.argument("names", nargs=-1)
@click.option("--done", is_flag=True, help="Also every job that is done.")
@json_option
def remove(names: tuple[str, ...], *, done: bool, as_json: bool) -> None:
    """Remove the jobs NAMES from the queue. Trained files stay."""
    from lora_training.app import queue as app

    if not names and not done:
        raise click.UsageError("name a job, or give --done")
    removed = app.remove(workspace.find(), names, done=done)
    answer({"removed": removed}, [f"{name}: removed" for name in removed] or ["no job is done"], as_json=as_json)


@queue.command()
@click.argument("names", nargs=-1)
@json_option
def pause(names: tuple[str, ...], *, as_json: bool) -> None:
    """Pause the jobs NAMES, or all that wait. One that is trained now saves its state and ends."""
    from lora_training.app import queue as app

    _answer(app.pause(workspace.find(), names), "no job waits for a worker", as_json=as_json)


@queue.command()
@click.argument("names", nargs=-1)
@json_option
def resume(names: tuple[str, ...], *, as_json: bool) -> None:
    """Let the paused or failed jobs NAMES, or all paused ones, wait for a worker again."""
    from lora_training.app import queue as app

    _answer(app.resume(workspace.find(), names), "no job is paused", as_json=as_json)


@queue.command()
@click.argument("names", nargs=-1)
@click.option("--gpus", metavar="LIST", help="Train on these GPUs, as in 0,1; each job gets all of them.")
@click.option("--wait", is_flag=True, help="Wait for more jobs when there are none.")
@click.option("-v", "--verbose", is_flag=True, help="Show upstream's own log as it is written.")
def work(names: tuple[str, ...], *, gpus: str | None, wait: bool, verbose: bool) -> None:
    """Train one job after the other, or only the jobs NAMES; interrupted ones first. Exit code 6 if one failed.

    For two at a time, start two workers with different --gpus.
    """
    from lora_training.app import queue as app
    from lora_training.cli.terminal import Terminal

    drop_unread()
    if gpus is not None and not gpus.strip(" ,"):
        raise click.BadParameter("it names no GPU", param_hint="--gpus")
    ended = app.work(workspace.find(), lambda: closing(Terminal(verbose=verbose)), names, gpus=gpus, waits=wait)
    if not ended:
        say("no job waits for a worker; `lora queue list` shows all")
    failed = [job.folder.name for job in ended if job.state == "failed"]
    if failed:
        say(*(f"{name}: failed; `lora queue list` says why" for name in failed), err=True)
        click.get_current_context().exit(_FAILED)


def _answer(found: list[dict[str, Any]], none: str = "", *, as_json: bool) -> None:
    """Print jobs, or the sentence `none` if there are none."""
    answer({"jobs": found}, map(_line, found) if found else [none], as_json=as_json)


def _line(job: dict[str, Any]) -> str:
    why = f" ({job['why'].splitlines()[0]})" if job["why"] else ""
    return f"{job['id']}: {job['state']}{why}, {job['output']}"
