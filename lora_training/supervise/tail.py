"""A reader of the training's events: the lines of `events.jsonl` that are new since the last look."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from lora_training import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Tail:
    """Reads a growing file of JSON lines from its current end on, and passes each new object to `on_event`."""

    def __init__(self, path: Path, on_event: Callable[[dict[str, Any]], None]) -> None:
        files.touch(path)
        self._file = os.fdopen(files.opener(str(path), os.O_RDONLY), "rb")
        self._file.seek(0, 2)
        self._rest = b""
        self._on_event = on_event

    def look(self) -> bool:
        """Read the new lines; return whether there were any."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            self._on_event(event)
        return bool(lines)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
