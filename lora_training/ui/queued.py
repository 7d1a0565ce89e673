"""The page of the queue: its jobs in their order; add, move, pause, continue and remove them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.routing import Route

from lora_training.app import queue
from lora_training.supervise import run_index
from lora_training.ui import live, web

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from lora_training.workspace import Workspace


class Queued:
    """The queue of one checkout. Workers are started in a terminal: `lora queue work`."""

    def __init__(self, here: Workspace) -> None:
        self.here = here

    def routes(self) -> list[Route]:
        """Return the addresses of these pages."""
        return [
            Route("/queue", self.show),
            Route("/queue/events", self.events),
            Route("/queue/change", self.change, methods=["POST"]),
        ]

    def show(self, _request: Request) -> Response:
        """Show the queue."""
        return web.page("queue.html", section="queue", parts=self._parts())

    def events(self, request: Request) -> Response:
        """Stream the queue as it changes."""
        return live.stream(request, self._parts)

    def _parts(self) -> dict[str, str]:
        jobs = [{**job, "run": self._run(job)} for job in queue.show(self.here)]
        return {"jobs": web.fragment("jobs.html", jobs=jobs)}

    def _run(self, job: dict[str, Any]) -> str | None:
        """Return the id of the run of a job, if it has been started."""
        found = run_index.ident(Path(job["folder"]))
        return found if run_index.at(self.here, found) else None

    async def change(self, request: Request) -> Response:
        """Move, pause, continue or remove a job."""
        wanted = await web.body(request)
        name, what = web.text(wanted, "name"), web.text(wanted, "do")
        before = web.text(wanted, "before") if wanted.get("before") is not None else None
        changes = {
            "move": lambda: queue.move(self.here, name, before),
            "pause": lambda: queue.pause(self.here, [name]),
            "resume": lambda: queue.resume(self.here, [name]),
            "remove": lambda: queue.remove(self.here, [name]),
        }
        if what not in changes:
            raise HTTPException(400, "there is no such change")
        await web.threaded(changes[what])
        return web.answer({"said": f"{name}: {_DONE[what]}"})


_DONE = {"move": "moved", "pause": "paused", "resume": "waits for a worker", "remove": "removed"}
