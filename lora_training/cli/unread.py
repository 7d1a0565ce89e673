"""Standard output and error of a command that goes on when nobody reads them any more."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Dropping(io.FileIO):
    """A file that drops what cannot be written to it: into a pipe without a reader, or on a terminal that is closed."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


def drop() -> None:
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
