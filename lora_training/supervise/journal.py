"""The supervisor's own lines in `events.jsonl`, between those of the training process (`runtime.events`).

| event | fields |
| --- | --- |
| attempt | `number` (from 1), `from_step`, `log`: a training process is started |
| restart | `from_step`, `death` (its kind), `why`: the attempt failed, and another one follows |
| note | `text`: a message that was printed to the terminal |
| closed | `state` (complete, failed or stopped), `why`: the run is over, or stopped to be resumed |

Each line starts with `event` and `time` (Unix time in seconds).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, Any

from lora_training import files

if TYPE_CHECKING:
    from pathlib import Path


def append(path: Path, kind: str, **fields: Any) -> None:
    """Append one event, in one write at the end of the file as the training process does. A full disk is no error."""
    line = json.dumps({"event": kind, "time": time.time(), **fields}, default=str).encode() + b"\n"
    with contextlib.suppress(OSError), open(path, "ab+", buffering=0, opener=files.opener) as file:
        # the training process may have been killed while it wrote a line
        if file.seek(0, os.SEEK_END) and not _ends_line(file):
            line = b"\n" + line
        file.write(line)


def _ends_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
