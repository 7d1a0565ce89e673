"""The page's actions: start, stop, resume and repeat runs, with the answers that the command line gives."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lora_training.app import drafts, recording, removal, runs
from lora_training.errors import ConfigError
from lora_training.ui import web


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
