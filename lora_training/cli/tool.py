"""`lora tool`: upstream's other scripts."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from lora_training import workspace
from lora_training.cli.app import Group
from lora_training.cli.output import ProgressLine, answer, json_option, say

_PASSED_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}
_SHOWN = 20  # files


class _Tools(Group):
    """A group in which each of upstream's scripts is a command, besides `list`."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        arguments = click.Argument(["words"], nargs=-1, type=click.UNPROCESSED)
        return super().get_command(ctx, cmd_name) or click.Command(
            cmd_name, callback=partial(_run, cmd_name), params=[arguments], context_settings=_PASSED_ON
        )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the names of the scripts as well."""
        from lora_training.app import tool as app
        from lora_training.config.schema import tools

        found = [name for name in tools.paths(app.tree(workspace.find())) if name.startswith(incomplete)]
        return [*super().shell_complete(ctx, incomplete), *map(CompletionItem, found)]


@click.group(
    cls=_Tools, context_settings={"help_option_names": ["-h", "--help"]}, subcommand_metavar="list | NAME [ARGS]..."
)
@click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), help="Install the runtime patches that it names."
)
@click.pass_context
def tool(ctx: click.Context, config: Path | None) -> None:
    """Run NAME, a script of the pinned sd-scripts, such as resize_lora. `lora tool NAME --help` shows its arguments."""
    ctx.obj = config


@tool.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List upstream's scripts, with what each does and the packages that it lacks here."""
    from lora_training.app import tool as app
    from lora_training.config.schema import tools

    found = tools.listing(app.tree(workspace.find()))
    width = max(len(each.name) for each in found)
    lines = []
    for each in found:
        lacks = f"  [lacks {', '.join(each.lacks)}]" if each.lacks else ""
        options = f"  [some options need {', '.join(each.options_lack)}]" if each.options_lack else ""
        lines.append(f"{each.name:{width}}  {each.purpose}{lacks}{options}")
    answer({"tools": [asdict(each) for each in found]}, lines, as_json=as_json)


def _run(name: str, words: tuple[str, ...]) -> None:
    from lora_training.app import tool as app

    here = workspace.find()
    if "--help" in words or "-h" in words:
        click.echo(app.help_of(here, name), nl=False)
        return
    progress = ProgressLine()
    try:
        written = app.run(here, name, words, click.get_current_context().obj, progress)
    finally:
        progress.close()
    for path, was_there in list(written.items())[:_SHOWN]:
        say(f"wrote {path}" + (", in place of an earlier file" if was_there else ""), err=True)
    if len(written) > _SHOWN:
        say(f"and {len(written) - _SHOWN} more", err=True)
