"""A disk without room, told as what it is wherever a run meets it."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lora_training.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def needed() -> Iterator[None]:
    """Within the block, a write that fails for want of room raises TrainingError."""
    try:
        yield
    except OSError as exc:
        if not is_lacking(exc):
            raise
        where = f": {exc.filename}" if exc.filename else ""
        raise TrainingError(
            f"the disk is full{where}",
            hint="make room, then run the same command again: it goes on from the last good state",
        ) from exc


def is_lacking(exc: OSError) -> bool:
    """Whether it was room that an operation failed for."""
    return exc.errno in _FULL
