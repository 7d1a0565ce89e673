"""Events that the training process reports to its supervisor: one JSON object per line.

The environment variable `LORA_EVENTS` is the target: a number is an inherited file descriptor, anything else the path
of a file, which is opened to append and must not be a link. When it is unset, nothing is written.

Each line is one `write` to a descriptor opened with O_APPEND, so lines of several processes do not mix. A line has
`event` (its kind), `time` (Unix time in seconds) and the event's own fields. Numbers that are not finite are null. No
error is raised into the training: a line that cannot be written is lost. Only the main process writes events, except
`sample` and `skipped`, which any rank may write:

| event | fields |
| --- | --- |
| start | `total_steps`, `epochs`, `initial_step` (steps already done, 0 without a resume): the loop begins |
| step | `step` (optimizer steps done, from 1), `epoch` (from 1), `loss`, `avr_loss`, `lr` (a list), `seconds` (since
|      | the step before), `memory_mb` (peak: of the GPU's allocator, or resident without a GPU) |
| checkpoint | `path`, `step`: a LoRA file has been written |
| state | `path`, `step`: a state folder has been written (by this process; see exact-resume for the others) |
| sample | `path`, `step`, `prompt`, `number` (the prompt's, from 0), `seed` (null if none was given): a sample image;
|        | reported by the process that generated it |
| skipped | `step`, `images`, `in_a_row`, `rank`: nan-guard skipped a step whose loss or gradient was not finite |
| stopped | `step`: the state is saved as requested, and the process exits with 143 |
| failed | `kind` (such as `not-finite`), `step`, `message`: the training gives up and exits with 6 |
| end | `step`: the training is over and everything is written |

The supervisor adds lines of its own between them (`supervise.record`).
"""

from __future__ import annotations

import functools
import json
import math
import os
import time
from typing import Any

from lora_training import files

VARIABLE = "LORA_EVENTS"


def emit(kind: str, /, **fields: Any) -> None:
    """Write one event, if `LORA_EVENTS` is set."""
    target = os.environ.get(VARIABLE)
    if not target:
        return
    line = json.dumps(_plain({"event": kind, "time": time.time(), **fields}), default=str) + "\n"
    try:
        os.write(_descriptor(target), line.encode())
    except OSError:
        # a supervisor that has ended, or a full disk, must not end the training
        return


@functools.cache
def _descriptor(target: str) -> int:
    return int(target) if target.isdecimal() else files.opener(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
