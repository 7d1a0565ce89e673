"""Continue a training in the background, in a session of its own."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lora_training import files
from lora_training.errors import TrainingError
from lora_training.supervise import record

LOG = "background.log"
_POLL_S = 0.05


class Detached(Exception):
    """The training continues in another process."""


def detach(folder: Path) -> None:
    """Return in a background process, whose output goes to `LOG` in the run's folder, and raise Detached in this one.

    Locks stay held until both processes have released them. Call it while there are no threads. Raises TrainingError
    if the other process ends before it has written the run's record.
    """
    with open(folder / LOG, "ab", opener=files.opener) as log, Path(os.devnull).open("rb") as nothing:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            for number, file in enumerate((nothing, log, log)):
                os.dup2(file.fileno(), number)
            return
    _wait_for_record(folder, pid)
    raise Detached


def _wait_for_record(folder: Path, pid: int) -> None:
    while (known := record.read(folder)) is None or known.pid != pid:
        if os.waitpid(pid, os.WNOHANG)[0]:
            raise TrainingError("the background process ended at once", hint=f"its output is in {folder / LOG}")
        time.sleep(_POLL_S)
