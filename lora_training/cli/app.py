"""The root command and the class of its groups, which are imported only when called, so that `lora --help` is fast."""

from __future__ import annotations

from importlib import import_module

import click

import lora_training

# name -> help in `lora --help`; the module of that name has the Click command of that name
_COMMANDS = {
    "train": "Train a LoRA from one TOML file.",
    "runs": "List, show, follow, stop, repeat, compare and remove runs.",
    "queue": "Add trainings, order them, and train one after the other.",
    "ui": "Watch, compare, start and stop runs in a browser.",
    "gpus": "Show the GPUs of this machine.",
    "config": "Check, show, explain, import and create configurations.",
    "upstream": "Fetch the pinned source trees, show their state, and move a pin.",
    "patch": "Apply, revert, verify and write patches.",
    "models": "Bring the tokenizers and models that a training loads from the hub.",
    "data": "Check the images and captions of a training, and write captions.",
    "weights": "Show what is in a LoRA or model file, and how two differ.",
    "tool": "Run upstream's other scripts: merge, resize, extract, convert, generate.",
    "doctor": "Check this machine and checkout.",
}


_LONGEST = 200  # characters of a command's help in a list


class Group(click.Group):
    """A group whose help shows the whole first sentence of each command."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one entry per command, without a limit of one line."""
        found = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.get_short_help_str(_LONGEST)) for name, each in found if each])


class _LazyGroup(click.Group):
    """A group that lists its commands from a table, and imports one only to run it."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"lora_training.cli.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as exc:
            name = exc.command_name
            if inner := [f"`lora {group} {name}`" for group in _COMMANDS if name in self._inner(ctx, group)]:
                raise click.UsageError(f"No such command {name!r}. Did you mean {' or '.join(inner)}?", ctx) from None
            # Click itself looks for similar names among the commands that are imported
            raise click.NoSuchCommand(exc.command_name, possibilities=_COMMANDS, ctx=ctx) from None

    def _inner(self, ctx: click.Context, name: str) -> list[str]:
        command = self.get_command(ctx, name)
        return command.list_commands(ctx) if isinstance(command, click.Group) else []

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(lora_training.__version__, prog_name="lora")
def lora() -> None:
    """Train LoRAs with kohya-ss/sd-scripts from one TOML file."""
