"""The page's actions: start, stop, resume and repeat runs, with the answers that the command line gives."""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import IO, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lora_training import proc
from lora_training.app import drafts, recording, removal, runs
from lora_training.errors import ConfigError
from lora_training.supervise import run_index
from lora_training.ui import web
from lora_training.workspace import Workspace

_MOST = 64 * 1024


@dataclass
class _Command:
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    began: float


class Started:
    """The commands that the page starts: each `lora` in a session of its own, which outlives this server.

    They are forgotten when it ends; the runs' records remain.
    """

    def __init__(self, here: Workspace) -> None:
        self.here = here
        self._numbers = itertools.count(1)
        self._commands: dict[int, _Command] = {}

    def start(self, *words: str) -> int:
        """Start `lora words`; return its number for `said`."""
        # so that none of those before stays as a zombie
        for command in tuple(self._commands.values()):
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


async def train(request: Request) -> Response:
    """Train a configuration of `configs/`, from its newest state."""
    name = web.text(await web.body(request), "name")
    return _start(request, "train", str(drafts.find(web.checkout(request), name)))


async def enqueue(request: Request) -> Response:
    """Check a configuration of `configs/` and add it to the queue."""
    name = web.text(await web.body(request), "name")
    return _start(request, "queue", "add", str(drafts.find(web.checkout(request), name)))


def resume(request: Request) -> Response:
    """Go on with a run, from the configuration in its record, which has the overrides too."""
    folder, run = web.run(request)
    if runs.state(folder, run) == "running":
        raise ConfigError(f"{run.name} is running")
    path = folder / recording.CONFIG
    return _start(request, "train", str(path if path.exists() else run.config))


def rerun(request: Request) -> Response:
    """Repeat a run from its record."""
    folder, _ = web.run(request)
    return _start(request, "runs", "rerun", str(folder))


def stop(request: Request) -> Response:
    """Ask a run to save its state and end; its page says when that is done."""
    folder, run = web.run(request)
    runs.stop(folder, run)
    return web.answer({"said": f"{run.name}: asked to stop at its next step"})


def end(request: Request) -> Response:
    """Have a run end at once, without saving."""
    folder, run = web.run(request)
    runs.end(folder, run)
    return web.answer({"said": f"{run.name}: ends now, nothing more is saved"})


def remove(request: Request) -> Response:
    """Remove a run's states and its record; its LoRA and checkpoints stay."""
    planned = removal.plan(*web.run(request))
    removal.remove(web.checkout(request), planned)
    return web.answer({"said": f"{planned.name}: removed; its LoRA stays"})


def _start(request: Request, *words: str) -> Response:
    return web.answer({"started": request.app.state.started.start(*words)}, 202)


def said(request: Request) -> Response:
    """Answer with the output of a started command so far."""
    found = request.app.state.started.said(request.path_params["number"])
    if found is None:
        raise HTTPException(404, "this server has not started such a command")
    return web.answer(found)


_OF_RUNS = {"stop": stop, "end": end, "resume": resume, "rerun": rerun, "remove": remove}
ROUTES = [
    Route("/train", train, methods=["POST"]),
    Route("/enqueue", enqueue, methods=["POST"]),
    *(Route(f"/runs/{{run}}/{name}", action, methods=["POST"]) for name, action in _OF_RUNS.items()),
    Route("/started/{number:int}.json", said),
]
