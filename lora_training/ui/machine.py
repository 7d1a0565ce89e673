"""The page of this machine: GPUs, processors, memory, disk; and the same as a document for programs."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lora_training.app import machine
from lora_training.ui import live, web
from lora_training.workspace import Workspace

_FRESH_S = 2.0


class Gpus:
    """The GPUs, asked for at most every two seconds, however many look."""

    def __init__(self, here: Workspace) -> None:
        self.here = here
        self._lock = threading.Lock()
        self._asked = -_FRESH_S
        self._known: dict[str, Any] = {}

    def found(self) -> dict[str, Any]:
        """Return what `lora gpus --json` prints."""
        with self._lock:
            if time.monotonic() - self._asked >= _FRESH_S:
                self._known, self._asked = machine.gpus(self.here), time.monotonic()
            return self._known


def show(_request: Request) -> Response:
    """Show this machine."""
    return web.page("machine.html", section="machine")


def events(request: Request) -> Response:
    """Stream the figures as they change."""
    return live.stream(request, partial(_parts, request.app.state.gpus))


def _parts(gpus: Gpus) -> dict[str, str]:
    return {"machine": web.fragment("gpus.html", found=gpus.found(), others=machine.others(gpus.here))}


def document(request: Request) -> Response:
    """Answer with what `lora gpus --json` prints."""
    return web.answer(request.app.state.gpus.found())


ROUTES = [Route("/machine", show), Route("/machine/events", events), Route("/gpus.json", document)]
