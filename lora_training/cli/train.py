"""`lora train`: train a LoRA from one TOML file."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lora_training import files, manifest, shell, workspace
from lora_training.cli import output
from lora_training.cli.output import say
from lora_training.cli.queue import slurm_options
from lora_training.supervise.record import BACKGROUND

if TYPE_CHECKING:
    from lora_training.app.plan import Plan
    from lora_training.app.train import Request
    from lora_training.cli.terminal import Terminal
    from lora_training.containers.running import Screen
    from lora_training.supervise.result import Result
    from lora_training.workspace import Workspace

# holds the image's name, set in the Dockerfile
_IMAGE = "LORA_IMAGE"


def _not_empty(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value == "":
        raise click.BadParameter("it cannot be empty")
    return value


def _place(here: Workspace, value: str | None) -> str | None:
    """Return the absolute path to resume from; of a run's name, that of its newest state."""
    from lora_training.app import resuming

    if value is None or value in ("auto", "never"):
        return value
    path = Path(os.path.normpath(files.expanded(value)))
    return str(path if manifest.read(path) else resuming.of_run(here, value, partial(say, err=True)) or path)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@output.sets_option
@click.option(
    "--resume",
    metavar="auto|never|PATH|RUN",
    callback=_not_empty,
    help="From the newest good state, from the start, from that state, or from the newest of that run.",
)
@click.option("--dry-run", is_flag=True, help="Print the exact command as one shell line, and write nothing.")
@click.option("--detach", is_flag=True, help="Check it, then train in the background.")
@click.option("-v", "--verbose", is_flag=True, help="Show upstream's own log as it is written.")
@click.option("--docker", is_flag=True, help="Train in a container, by Docker or Podman.")
@slurm_options
@click.option("--image", metavar="NAME", callback=_not_empty, help="The container's image, if not lora-training.")
def train(  # noqa: PLR0913 - one argument an option
    file: Path,
    *,
    sets: tuple[str, ...],
    resume: str | None,
    dry_run: bool,
    detach: bool,
    verbose: bool,
    docker: bool,
    image: str | None,
    sbatch: tuple[str, ...] | None,
) -> None:
    """Train a LoRA as FILE says, or go on where an earlier run of it ended."""
    from lora_training.app import train as training
    from lora_training.cli.terminal import Terminal

    if detach and (dry_run or docker or image):
        raise click.UsageError("--detach goes with neither --dry-run nor --docker")
    if sbatch is not None and (detach or docker or image):
        raise click.UsageError("--slurm goes with neither --detach nor --docker")
    if not dry_run:
        output.drop_unread()
    here = workspace.find()
    request = training.Request(file, sets, _place(here, resume), detach)
    with closing(Terminal(verbose=verbose)) as terminal:
        if docker or image:
            code = _in_container(here, request, image, terminal, verbose=verbose, dry_run=dry_run)
            click.get_current_context().exit(code)
        if sbatch is not None:
            _in_slurm(here, request, sbatch, terminal, dry_run=dry_run)
            return
        if dry_run:
            say(training.rehearse(here, request, terminal))
            return
        plan, result = training.train(here, request, terminal)
    if result:
        _report(plan, result)
    else:
        _say_where(plan.folder)


def _in_slurm(here: Workspace, request: Request, sbatch: tuple[str, ...], terminal: Terminal, *, dry_run: bool) -> None:
    from lora_training.app import queue

    wanted = queue.Wanted([request.file], request.sets, request.resume, sbatch)
    if dry_run:
        say(queue.rehearse(here, request.file, wanted))
    for job in () if dry_run else queue.add(here, wanted, terminal):
        say(f"{job['name']}: submitted to Slurm as job {job['slurm']}")
        say("state     lora queue list, and once it trains lora runs show", f"log       {job['folder']}/{BACKGROUND}")
        say(f"stop      lora queue pause {shell.quote(job['id'])}")


def _in_container(
    here: Workspace, request: Request, image: str | None, terminal: Terminal, *, verbose: bool, dry_run: bool
) -> int:
    from lora_training.app import container

    options = container.Options(image, verbose, tty=sys.stdout.isatty() and sys.stderr.isatty())
    if dry_run:
        say(container.rehearse(here, request, options, terminal))
        return 0
    return container.train(here, request, options, terminal, _screen(tty=options.tty))


def _screen(*, tty: bool) -> Screen:
    """Return standard output and error as the receivers of a container's output."""
    import shutil

    from lora_training.containers.running import Screen

    def write(chunk: bytes, is_error: bool) -> None:  # noqa: FBT001 - as the engine has it
        stream: Any = sys.stderr if is_error else sys.stdout
        stream.buffer.write(chunk)
        stream.buffer.flush()

    def size() -> tuple[int, int]:
        columns, lines = shutil.get_terminal_size()
        return columns, lines

    return Screen(write, size if tty else None)


def _say_where(folder: Path) -> None:
    """Print the name of a run in the background, how to follow it, and how to stop it."""
    name = shell.quote(folder.stem)
    say(f"{folder.stem}: training in the background")
    say(f"state     lora runs show {name}", f"follow    lora runs log {name} -f")
    say(f"stop      lora runs stop {name}", f"output    {folder / BACKGROUND}")


def _report(plan: Plan, result: Result) -> None:
    """Print the LoRA, its figures, and the upstream and patches that it was trained with."""
    from lora_training.app import runs
    from lora_training.app.plan import SMOKE
    from lora_training.supervise import record

    say(f"trained   {result.path}")
    say(f"steps     {result.steps}")
    if run := record.read(plan.folder):
        say(*runs.outcome(plan.folder, run))
    say(f"upstream  {plan.tree.title}")
    say(f"patches   {', '.join(name.removesuffix('.patch') for name in plan.tree.patches) or 'none'}")
    say(f"runtime   {', '.join(plan.runtime) or 'none'}")
    if run:
        say(f"record    {plan.folder}")
    if plan.config.run.assets == SMOKE and os.environ.get(_IMAGE):
        say(*_next_steps(os.environ[_IMAGE]))


def _next_steps(image: str) -> list[str]:
    """Return the commands that follow the smoke run of the container image, the default of `docker run`."""
    folders = "-v $PWD/data:/data -v $PWD/models:/models -v $PWD/out:/out"
    run = f"docker run --rm --user $(id -u):$(id -g) {folders}"
    new = "config new /data/my --preset sdxl --model /models/sd_xl_base_1.0.safetensors --images /data/images"
    return [
        "",
        "It works. Next, with your images in ./data/images and a model in ./models:",
        "  mkdir -p out",
        f"  {run} {image} {new} --output-dir /out",
        f"  {run} --gpus all --shm-size 8g --stop-timeout 300 {image} train /data/my.toml",
    ]
