"""`lora train`: from one TOML file to a LoRA that holds up."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lora_training import files, workspace
from lora_training.cli.output import say
from lora_training.errors import LoraError

if TYPE_CHECKING:
    from lora_training.app.plan import Plan
    from lora_training.cli.terminal import Terminal
    from lora_training.supervise.result import Result
    from lora_training.workspace import Workspace


def _not_empty(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value == "":
        raise click.BadParameter("it cannot be empty")
    return value


def _place(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Where to go on from, absolute. `~` of a user that is not there stays as it is: no such place exists, either."""
    value = _not_empty(context, option, value)
    if value in (None, "auto", "never"):
        return value
    return os.path.abspath(os.path.expanduser(value))  # noqa: PTH100, PTH111 - pathlib raises for such a user


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a value; may be repeated.")
@click.option(
    "--resume",
    metavar="auto|never|PATH",
    callback=_place,
    help="From the newest good state, from the start, or from that.",
)
@click.option("--dry-run", is_flag=True, help="Print the exact command as one shell line, and write nothing.")
@click.option("-v", "--verbose", is_flag=True, help="Show upstream's own log as it is written.")
@click.option("--docker", is_flag=True, help="Train in a container, by Docker or Podman.")
@click.option("--image", metavar="NAME", callback=_not_empty, help="The container's image, if not lora-training.")
def train(  # noqa: PLR0913 - one argument an option
    file: Path,
    *,
    sets: tuple[str, ...],
    resume: str | None,
    dry_run: bool,
    verbose: bool,
    docker: bool,
    image: str | None,
) -> None:
    """Train a LoRA as FILE says, or go on where an earlier run of it ended."""
    from lora_training.app import plan as plans
    from lora_training.app import resuming
    from lora_training.cli import unread
    from lora_training.cli.terminal import Terminal
    from lora_training.patching import site

    unread.drop()
    here = workspace.find()
    if docker or image:
        from lora_training.app import container

        asked = container.Asked(file, sets, image, resume, verbose=verbose)
        click.get_current_context().exit(container.train(here, asked, dry_run=dry_run))
    # no patch command may change the trees: each attempt imports upstream anew, and upstream imports late
    with site.shared_lock(here):
        plan = plans.make(here, file, sets, write=not dry_run)
        with closing(Terminal(verbose=verbose)) as terminal:
            resume = resuming.meant(plan, resume or plan.config.run.resume, terminal)
            if dry_run:
                _rehearse(plan, resume, terminal)
                return
            result = run(here, plan, resume, terminal)
    report(plan, result)


def _warn_of_left_out(plan: Plan, terminal: Terminal) -> None:
    from lora_training.config.checks import machine

    for key in plan.left_out:
        terminal.note(f"warning: {machine.sentence(key)}")


def _rehearse(plan: Plan, resume: str, terminal: Terminal) -> None:
    """Print what `run` would start, and say what it would say of the state to go on from."""
    from lora_training.app import recording, resuming
    from lora_training.supervise import states

    _warn_of_left_out(plan, terminal)
    if resume == "auto" and recording.complete(plan):
        terminal.note("this run is complete; this is the command that would train it anew")
        state = None
    else:
        state = resuming.state(plan, resume, terminal)
    say(replace(plan.spec, argv=(*plan.spec.argv, *states.flags(state))).shell())


def run(here: Workspace, plan: Plan, resume: str, terminal: Terminal, rerun_of: Path | None = None) -> Result:
    """Bring a run to its end, or find that it is; `rerun_of` is the LoRA that it repeats."""
    from lora_training.app import recording, resuming, start_checks
    from lora_training.config import exchanged
    from lora_training.runtime.patches import graceful_stop
    from lora_training.supervise import aside, record, room, shelf
    from lora_training.supervise.loop import Patience
    from lora_training.supervise.run import Order, Run

    if plan.tree.is_miniature:
        _warn_of_miniature()
    _warn_of_left_out(plan, terminal)
    if said := exchanged.sentence(plan.config, plan.schema):
        terminal.note(said)
    make_assets(here, plan)
    settings = plan.config.run
    patience = Patience(stall=settings.stall_timeout)
    order = Order(
        plan.spec,
        plan.config.path,
        plan.output,
        plan.folder,
        plan.made_by,
        settings.retries,
        patience,
        sees_stop_file=graceful_stop.NAME in plan.runtime,
    )
    with room.needed(), record.alone(plan.folder):
        done = recording.complete(plan) if resume == "auto" else None
        if done:
            terminal.note("this run is complete; nothing to train (`--resume never` starts anew)")
            return done
        aside.refuse_links(plan.output)
        state = resuming.state(plan, resume, terminal, is_rerun=rerun_of is not None)
        recording.refuse_own_work(plan)
        start_checks.check(here, plan, keeps=recording.puts_aside(plan, resume, state))
        began = {**recording.begin(here, plan, resume, state, terminal), "rerun_of": rerun_of and str(rerun_of)}
        _write(plan)
        shelf.add(here, plan.folder)
        return Run(replace(order, began=began), terminal).go(state)


def _write(plan: Plan) -> None:
    """What the child reads, and the command for people to read."""
    if plan.dataset:
        files.write(plan.folder / "dataset.json", plan.dataset)
    files.write(plan.folder / "command.sh", plan.spec.shell() + "\n")


def _warn_of_miniature() -> None:
    say(
        "warning: sd-scripts cannot be reached, so this run trains with the MINIATURE, a small stand-in of our own.",
        "warning: it shows that everything else works. `lora upstream sync` brings the real one.",
        err=True,
    )


def make_assets(here: Workspace, plan: Plan) -> None:
    """Make the smoke run's model and images, in a process of its own: that needs torch, and this one does without."""
    from lora_training import proc
    from lora_training.app.plan import SMOKE

    folder = here.cache / SMOKE
    if plan.config.run.assets == SMOKE and not folder.exists():
        say(f"making a tiny model, its tokenizer and some images in {folder}", err=True)
        try:
            proc.run([*proc.module("lora_training.smoke"), str(folder)], cwd=here.root)
        except proc.ProcError as exc:
            last = (exc.hint or "").splitlines()[-1:]
            raise LoraError(f"cannot make {folder}", hint="; ".join(last) or None) from exc


def report(plan: Plan, result: Result) -> None:
    """Say what was trained, and what made it."""
    from lora_training.app.plan import SMOKE
    from lora_training.cli import next_steps

    say(f"trained   {result.path}")
    say(f"steps     {result.steps}")
    say(f"upstream  {plan.tree.title}")
    say(f"patches   {', '.join(plan.tree.patches) or 'none'}")
    say(f"runtime   {', '.join(plan.runtime) or 'none'}")
    say(f"record    {plan.folder}")
    if plan.config.run.assets == SMOKE:
        say(*next_steps.after_smoke())
