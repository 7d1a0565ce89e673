"""How commands speak: one JSON document, plain lines, and a progress line on stderr."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

import click

from lora_training import printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")


def print_json(document: Any) -> None:
    """Print `document` on stdout, for a program to read."""
    click.echo(printable.as_json(document))


def say(*lines: str, err: bool = False) -> None:
    """Print lines, each of which stays one, with nothing in it that a terminal would obey."""
    for line in lines:
        click.echo(printable.line(line), err=err)


def print_file(data: bytes) -> None:
    """Print a file: its very bytes, but what a terminal would obey on a terminal."""
    text = printable.lines(data.decode("utf-8", "surrogateescape")) if sys.stdout.isatty() else data
    click.echo(text, nl=False)


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
        """Show `text` in place of what was shown before; an empty text removes that."""
        if not text:
            self.close()
            return
        if self._live:
            click.echo(f"\r\x1b[K{printable.line(text)[: self._width()]}", nl=False, err=True)
        elif "%" not in text:
            say(text, err=True)

    def close(self) -> None:
        """Leave the terminal's line clean."""
        if self._live:
            click.echo("\r\x1b[K", nl=False, err=True)

    @staticmethod
    def _width() -> int:
        import shutil

        return shutil.get_terminal_size().columns - 1


class _Dropping(io.FileIO):
    """A file that drops what cannot be written to it: into a pipe without a reader, or on a terminal that is closed."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


def drop_unread() -> None:
    """Drop, until this process ends, what cannot be printed. For a training, whose record has all of it."""
    sys.stdout, sys.stderr = _dropping(sys.stdout), _dropping(sys.stderr)


def _dropping(stream: TextIO) -> TextIO:
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        # no file of the system's, as under a test
        return stream
    stream.flush()
    raw = io.BufferedWriter(_Dropping(number, "wb", closefd=False))
    return io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=True)
