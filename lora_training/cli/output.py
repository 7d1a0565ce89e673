"""How commands speak: one JSON document, plain lines, and a progress line on stderr."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")


def print_json(document: Any) -> None:
    """Print `document` on stdout, for a program to read."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


# Terminals that cannot write over a line.
_DUMB = ("dumb", "unknown")


def is_live() -> bool:
    """Whether stderr is a terminal on which a line can be written over."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in _DUMB


class ProgressLine:
    """What goes on, on stderr: one line that is written over on a terminal that can, plain lines elsewhere.

    Without a terminal the meters of git and pip would fill a log, so only lines without a percentage are kept.
    """

    def __init__(self) -> None:
        self._live = is_live()

    def __call__(self, text: str) -> None:
        """Show `text` in place of what was shown before."""
        if self._live:
            click.echo(f"\r\x1b[K{text[: self._width()]}", nl=False, err=True)
        elif "%" not in text:
            click.echo(text, err=True)

    def close(self) -> None:
        """Leave the terminal's line clean."""
        if self._live:
            click.echo("\r\x1b[K", nl=False, err=True)

    @staticmethod
    def _width() -> int:
        import shutil

        return shutil.get_terminal_size().columns - 1
