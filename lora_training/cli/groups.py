"""A Click group whose help lists whole sentences."""

from __future__ import annotations

import click

_LONGEST = 200


class Group(click.Group):
    """A group whose help shows the first sentence of each command, not cut off."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a line or more for each command."""
        found = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.get_short_help_str(_LONGEST)) for name, each in found if each])
