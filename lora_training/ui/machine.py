"""The page of this machine: GPUs, processors, memory, disk; and the same as a document for programs."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from lora_training.app import machine
from lora_training.ui import live, web

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from lora_training.workspace import Workspace

_FRESH_S = 2.0


class Machine:
    """The figures of this machine, asked for at most every two seconds, however many look."""

    def __init__(self, here: Workspace) -> None:
        self.here = here
        self._lock = threading.Lock()
        self._known: tuple[float, dict[str, Any]] = (-_FRESH_S, {})

    def routes(self) -> list[Route]:
        """Return the addresses of these pages."""
        return [
            Route("/machine", self.show),
            Route("/machine/events", self.events),
            Route("/gpus.json", self.gpus),
        ]

    def show(self, _request: Request) -> Response:
        """Show this machine."""
        return web.page("machine.html", section="machine")

    def events(self, request: Request) -> Response:
        """Stream the figures as they change."""
        return live.stream(request, self._parts)

    def gpus(self, _request: Request) -> Response:
        """Answer with what `lora gpus --json` prints."""
        return web.answer(self._gpus())

    def _parts(self) -> dict[str, str]:
        return {"machine": web.fragment("gpus.html", found=self._gpus(), others=machine.others(self.here))}

    def _gpus(self) -> dict[str, Any]:
        with self._lock:
            if time.monotonic() - self._known[0] >= _FRESH_S:
                found = machine.gpus(self.here)
                self._known = (time.monotonic(), found)
            return self._known[1]
