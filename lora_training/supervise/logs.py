"""Reading the logs of a run's attempts while it trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lora_training import files
from lora_training.supervise import record

_CHUNK = 1 << 20
_POLL_S = 0.2


def read(folder: Path, *, follow: bool, sleep: Callable[[float], None] = time.sleep) -> Iterator[tuple[Path, bytes]]:
    """Yield the log of the newest attempt, in whole lines; with `follow`, until the run ends."""
    run = record.read(folder)
    number, offset = max(0, len(run.attempts) - 1) if run else 0, 0
    while True:
        # asked before the log is read, so that nothing is missed
        is_alive = record.is_alive(folder)
        run = record.read(folder)
        found = run.logs if run else []
        while number < len(found):
            is_over = not is_alive or number + 1 < len(found)
            while data := _read(found[number], offset, rest=is_over):
                offset += len(data)
                yield found[number], data
            if number + 1 == len(found):
                break
            number, offset = number + 1, 0
        if not (is_alive and follow):
            return
        sleep(_POLL_S)


def _read(path: Path, offset: int, *, rest: bool) -> bytes:
    """Return the lines after an offset, with `rest` also one without an end; nothing for a file that is not there."""
    try:
        with open(path, "rb", opener=files.opener) as file:
            file.seek(offset)
            data = file.read(_CHUNK)
    except FileNotFoundError:
        return b""
    return data if rest or len(data) == _CHUNK else data[: data.rfind(b"\n") + 1]
