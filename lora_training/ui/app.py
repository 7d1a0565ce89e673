"""The server of the page: its routes, its files, and how it listens."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from lora_training.app.overview import Histories
from lora_training.errors import LoraError
from lora_training.ui import actions, forms, guard, machine, pages, queued, web
from lora_training.workspace import Workspace

# for downloads that are under way, in seconds
_LAST_S = 5
_HERE = Path(__file__).parent


def create(here: Workspace, token: str, hosts: guard.Hosts) -> Starlette:
    """Return the application for a checkout."""
    routes = [each for part in (actions, pages, forms, machine, queued) for each in part.ROUTES]
    folders = [Mount(f"/{name}", StaticFiles(directory=_HERE / name)) for name in ("static", "vendor")]
    app = Starlette(
        routes=[*routes, *folders],
        middleware=[Middleware(guard.Guard, token=token, hosts=hosts)],
        exception_handlers=dict.fromkeys((LoraError, HTTPException, OSError), web.refused),
    )
    app.state.checkout, app.state.histories, app.state.started = here, Histories(), actions.Started(here)
    return app


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address. Raises LoraError if it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as exc:
        why = str(exc.strerror).partition(" (")[0]
        hint = "`--port 0` takes any free port, and `--host` must be an address of this machine"
        raise LoraError(f"cannot listen at {host}, port {port}: {why}", hint=hint) from None


def serve(app: Starlette, listening: socket.socket) -> None:
    """Answer requests until a signal ends it; runs go on."""
    quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}
    config = uvicorn.Config(app, lifespan="off", proxy_headers=False, timeout_graceful_shutdown=_LAST_S, **quiet)
    server = uvicorn.Server(config)
    # a stream would go on for ever
    app.state.is_ending = lambda: server.should_exit
    server.run([listening])
