"""The page of this machine: GPUs, processors, memory, disk; and the same as a document for programs."""

from __future__ import annotations

import functools
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lora_training.app import machine
from lora_training.ui import live, web
from lora_training.workspace import Workspace

_FRESH_S = 2


@functools.lru_cache(maxsize=1)
def _asked(here: Workspace, _moment: int) -> dict[str, Any]:
    return machine.gpus(here)


def _gpus(here: Workspace) -> dict[str, Any]:
    """Return what `lora gpus --json` prints, asked for once in two seconds, however many look."""
    return _asked(here, int(time.monotonic() // _FRESH_S))


def show(_request: Request) -> Response:
    """Show this machine."""
    return web.page("machine.html", section="machine")


def events(request: Request) -> Response:
    """Stream the figures as they change."""
    return live.stream(request, functools.partial(_parts, web.checkout(request)))


def _parts(here: Workspace) -> dict[str, str]:
    return {"machine": web.fragment("gpus.html", found=_gpus(here), others=machine.others(here))}


def document(request: Request) -> Response:
    """Answer with what `lora gpus --json` prints."""
    return web.answer(_gpus(web.checkout(request)))


ROUTES = [Route("/machine", show), Route("/machine/events", events), Route("/gpus.json", document)]
