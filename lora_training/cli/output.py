"""Output of commands: JSON documents, plain lines, and a progress line on stderr."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

import click

from lora_training import printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def keys(_context: click.Context, option: click.Parameter, incomplete: str) -> list[str]:
    """Return the keys of upstream's scripts for the shell's completion, with `=` where a value follows."""
    from lora_training import families
    from lora_training.app.checkout import Checkout
    from lora_training.errors import LoraError

    try:
        here = Checkout(None)
        known = {key for family in families.FAMILIES for key in here.schema(family.script).keys}
    except LoraError:
        return []
    end = "=" if option.name == "sets" else ""
    return [f"{key}{end}" for key in sorted(known) if key.startswith(incomplete)]


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
sets_option = click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", shell_complete=keys, help="Override a value; may be repeated."
)


def print_json(document: Any) -> None:
    """Print `document` on stdout as JSON."""
    click.echo(printable.as_json(document))


def say(*lines: str, err: bool = False) -> None:
    """Print lines; line breaks and control characters in them are escaped."""
    for line in lines:
        click.echo(printable.line(line), err=err)


def print_file(data: bytes) -> None:
    """Print a file's exact bytes; on a terminal, control characters are escaped."""
    text = printable.lines(data.decode("utf-8", "surrogateescape")) if sys.stdout.isatty() else data
    click.echo(text, nl=False)


def answer(document: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """Print the document as JSON, or the lines, which may be generated."""
    if as_json:
        print_json(document)
    else:
        say(*lines)


# Terminals that cannot overwrite a line.
_DUMB = ("dumb", "unknown")


def is_live() -> bool:
    """Return whether stderr is a terminal on which a line can be overwritten."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in _DUMB


class ProgressLine:
    """Progress on stderr: one line that is overwritten on a terminal, plain lines elsewhere.

    Without a terminal, progress meters of git and pip would fill a log, so lines with a percentage are left out.
    """

    def __init__(self) -> None:
        self._live = is_live()

    def __call__(self, text: str) -> None:
        """Show `text` in place of the last one; an empty text removes it."""
        if not text:
            self.close()
            return
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            click.echo(f"\r\x1b[K{printable.line(text)[:width]}", nl=False, err=True)
        elif "%" not in text:
            say(text, err=True)

    def close(self) -> None:
        """Clear the progress line."""
        if self._live:
            click.echo("\r\x1b[K", nl=False, err=True)


class _Dropping(io.FileIO):
    """A file that ignores write errors: on a pipe whose reader has closed it, or a closed terminal."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


def drop_unread() -> None:
    """Ignore errors of printing until this process ends. For a training, whose record has all output."""
    sys.stdout, sys.stderr = _dropping(sys.stdout), _dropping(sys.stderr)


def _dropping(stream: TextIO) -> TextIO:
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        # not a real file, as in a test
        return stream
    stream.flush()
    raw = io.BufferedWriter(_Dropping(number, "wb", closefd=False))
    return io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=True)
