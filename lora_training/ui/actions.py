"""The page's actions: start, stop, resume and repeat runs, with the answers that the command line gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.routing import Route

from lora_training.app import drafts, recording, removal, runs
from lora_training.errors import ConfigError
from lora_training.supervise import run_index
from lora_training.ui import web

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response

    from lora_training.supervise.record import Record
    from lora_training.ui.started import Started
    from lora_training.workspace import Workspace


class Actions:
    """The changes that a page may ask for. Each is a POST with a JSON object."""

    def __init__(self, here: Workspace, started: Started) -> None:
        self.here, self.started = here, started

    def routes(self) -> list[Route]:
        """Return the addresses of these actions."""
        return [
            Route("/train", self.train, methods=["POST"]),
            Route("/enqueue", self.enqueue, methods=["POST"]),
            Route("/runs/{run}/stop", self.stop, methods=["POST"]),
            Route("/runs/{run}/end", self.end, methods=["POST"]),
            Route("/runs/{run}/resume", self.resume, methods=["POST"]),
            Route("/runs/{run}/rerun", self.rerun, methods=["POST"]),
            Route("/runs/{run}/remove", self.remove, methods=["POST"]),
            Route("/started/{number:int}.json", self.said),
        ]

    def _run(self, request: Request) -> tuple[Path, Record]:
        found = run_index.at(self.here, request.path_params["run"])
        if found is None:
            raise HTTPException(404, "there is no such run")
        return found

    async def train(self, request: Request) -> Response:
        """Train a configuration of `configs/`, from its newest state or anew."""
        wanted = await web.body(request)
        path = drafts.find(self.here, web.text(wanted, "name"))
        anew = ["--resume", "never"] if wanted.get("anew") is True else []
        return self._start("train", str(path), *anew)

    async def enqueue(self, request: Request) -> Response:
        """Check a configuration of `configs/` and add it to the queue."""
        wanted = await web.body(request)
        return self._start("queue", "add", str(drafts.find(self.here, web.text(wanted, "name"))))

    async def resume(self, request: Request) -> Response:
        """Go on with a run, from the configuration in its record, which has the overrides too."""
        await web.body(request)
        folder, run = self._run(request)
        if runs.state(folder, run) == "running":
            raise ConfigError(f"{run.name} is running")
        path = folder / recording.CONFIG
        return self._start("train", str(path if path.exists() else run.config))

    async def rerun(self, request: Request) -> Response:
        """Repeat a run from its record."""
        wanted = await web.body(request)
        folder, _ = self._run(request)
        changes = ["--allow-changes"] if wanted.get("allow_changes") is True else []
        return self._start("runs", "rerun", str(folder), *changes)

    async def stop(self, request: Request) -> Response:
        """Ask a run to save its state and end; its page says when that is done."""
        await web.body(request)
        folder, run = self._run(request)
        runs.stop(folder, run)
        return web.answer({"said": f"{run.name}: asked to stop at its next step"})

    async def end(self, request: Request) -> Response:
        """Have a run end at once, without saving."""
        await web.body(request)
        folder, run = self._run(request)
        runs.end(folder, run)
        return web.answer({"said": f"{run.name}: ends now, nothing more is saved"})

    async def remove(self, request: Request) -> Response:
        """Remove a run's states and its record; its LoRA and checkpoints stay."""
        await web.body(request)
        planned = removal.plan(*self._run(request))
        await web.threaded(removal.remove, self.here, planned)
        return web.answer({"said": f"{planned.name}: removed; its LoRA stays"})

    def _start(self, *words: str) -> Response:
        return web.answer({"started": self.started.start(*words)}, 202)

    def said(self, request: Request) -> Response:
        """Answer with the output of a started command so far."""
        found = self.started.said(request.path_params["number"])
        if found is None:
            raise HTTPException(404, "this server has not started such a command")
        return web.answer(found)
