"""A full disk, reported in the same way wherever a run meets it."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lora_training.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def reported() -> Iterator[None]:
    """Within the block, a write that fails because the disk is full raises TrainingError."""
    try:
        yield
    except OSError as exc:
        if not is_cause(exc):
            raise
        where = f": {exc.filename}" if exc.filename else ""
        raise TrainingError(
            f"the disk is full{where}",
            hint="make room, then run the same command again: it goes on from the last good state",
        ) from exc


def is_cause(exc: OSError) -> bool:
    """Return whether an operation failed because the disk or a quota is full."""
    return exc.errno in _FULL
