"""The page of the queue: its jobs in their order; add, move, pause, continue and remove them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lora_training.app import queue
from lora_training.supervise import run_index
from lora_training.ui import live, web
from lora_training.workspace import Workspace


def show(request: Request) -> Response:
    """Show the queue. Workers are started in a terminal: `lora queue work`."""
    return web.page("queue.html", section="queue", parts=_parts(web.checkout(request)))


def events(request: Request) -> Response:
    """Stream the queue as it changes."""
    return live.stream(request, partial(_parts, web.checkout(request)))


def _parts(here: Workspace) -> dict[str, str]:
    jobs = queue.show(here)
    for job in jobs:
        # the id of its run, if it has been started
        ident = run_index.ident(Path(job["folder"]))
        job["run"] = ident if run_index.at(here, ident) else None
    return {"jobs": web.fragment("jobs.html", jobs=jobs)}


async def change(request: Request) -> Response:
    """Move, pause, continue or remove a job."""
    here, wanted = web.checkout(request), await web.body(request)
    name, what = web.text(wanted, "name"), web.text(wanted, "do")
    before = web.text(wanted, "before") if wanted.get("before") is not None else None
    changes = {
        "move": ("moved", lambda: queue.move(here, name, before)),
        "pause": ("paused", lambda: queue.pause(here, [name])),
        "resume": ("waits for a worker", lambda: queue.resume(here, [name])),
        "remove": ("removed", lambda: queue.remove(here, [name])),
    }
    if what not in changes:
        raise HTTPException(400, "there is no such change")
    done, do = changes[what]
    await run_in_threadpool(do)
    return web.answer({"said": f"{name}: {done}"})


ROUTES = [
    Route("/queue", show),
    Route("/queue/events", events),
    Route("/queue/change", change, methods=["POST"]),
]
