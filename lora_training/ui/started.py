"""Commands that the page starts: each `lora` in a session of its own, which outlives the page's server."""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import IO, Any

from lora_training import proc
from lora_training.supervise import run_index
from lora_training.workspace import Workspace

_MOST = 64 * 1024


@dataclass
class _Command:
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    began: float


class Started:
    """The commands of this server. They are forgotten when it ends; the runs' records remain."""

    def __init__(self, here: Workspace) -> None:
        self.here = here
        self._numbers = itertools.count(1)
        self._commands: dict[int, _Command] = {}

    def start(self, *words: str) -> int:
        """Start `lora words`; return its number for `said`."""
        # so that none of those before stays as a zombie
        for command in self._commands.values():
            command.process.poll()
        # without a name, so that nothing is left behind
        output = tempfile.TemporaryFile()  # noqa: SIM115 - read as long as the server lives
        process = subprocess.Popen(
            [*proc.module("lora_training"), *words],
            cwd=self.here.root,
            env={**os.environ, "LORA_HOME": str(self.here.root)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        number = next(self._numbers)
        self._commands[number] = _Command(process, output, time.time())
        return number

    def said(self, number: int) -> dict[str, Any] | None:
        """Return a command's output so far, its exit code, and the id of the run that it works on."""
        command = self._commands.get(number)
        if command is None:
            return None
        code = command.process.poll()
        # the child writes at the same position, which must not move
        size = os.fstat(command.output.fileno()).st_size
        text = os.pread(command.output.fileno(), _MOST, max(0, size - _MOST)).decode("utf-8", "replace")
        pid, began = command.process.pid, command.began - 1
        found = (folder for folder, run in run_index.runs(self.here) if run.pid == pid and run.started > began)
        run = next(found, None)
        return {"code": code, "text": text, "run": run and run_index.ident(run)}
