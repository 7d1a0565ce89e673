"""The pages of runs: the list, one run, several compared."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lora_training.app import compare, overview, recording, runs
from lora_training.supervise import run_index
from lora_training.supervise.history import History
from lora_training.supervise.record import Record
from lora_training.ui import live, web

_POINTS, _POINTS_COMPARED, _MOST_POINTS = 1500, 400, 20_000


def _history(request: Request, folder: Path) -> History:
    histories: overview.Histories = request.app.state.histories
    return histories.of(folder)


# -- the list


def list_(request: Request) -> Response:
    """Show every run."""
    return web.page("runs.html", section="runs", parts=_list_parts(request))


def list_events(request: Request) -> Response:
    """Stream the rows that change."""
    return live.stream(request, partial(_list_parts, request))


def _list_parts(request: Request) -> dict[str, str]:
    rows = overview.rows(web.checkout(request), request.app.state.histories)
    parts = {row["id"]: web.fragment("row.html", row=row) for row in rows}
    return {"order": " ".join(parts), **parts}


# -- one run


def show(request: Request) -> Response:
    """Show one run."""
    folder, run = web.run(request)
    values: dict[str, Any] = {
        "run": run,
        "folder": folder,
        "host": request.url.hostname,
        "resolved": recording.config(folder),
        "origins": recording.read(folder, recording.ORIGINS),
        "environment": recording.read(folder, recording.ENVIRONMENT),
        "inputs": recording.read(folder, recording.INPUTS),
    }
    ident = run_index.ident(folder)
    return web.page("run.html", section="runs", id=ident, parts=_parts(request, ident), **values)


def show_events(request: Request) -> Response:
    """Stream the run's events, and the parts of its page that change."""
    folder, _ = web.run(request)
    return live.stream(request, partial(_parts, request, run_index.ident(folder)), folder)


def _parts(request: Request, ident: str) -> dict[str, str]:
    found = run_index.at(web.checkout(request), ident)
    if found is None:
        return {}
    folder, run = found
    history = _history(request, folder)
    values: dict[str, Any] = {
        "row": overview.row(folder, run, history),
        "marks": history.marks[::-1],
        "files": overview.files_of(run),
        "states": [path.name for path in runs.saves(run)["state"]],
        "samples": overview.samples_of(history),
        "log": overview.log_tail(overview.log_of(run)),
    }
    return {name: web.fragment(f"run_{name}.html", **values) for name in ("head", "files", "samples", "marks", "log")}


def curves(request: Request) -> Response:
    """Answer with the run's curves, or a part of them."""
    folder, _ = web.run(request)
    low, high, points = (_number(request, *each) for each in (("low", -math.inf), ("high", math.inf), ("points", 0.0)))
    number = int(min(points, _MOST_POINTS)) if points > 0 else _POINTS
    return web.answer(_history(request, folder).curves(number, low, high))


def file(request: Request) -> Response:
    """Send a LoRA or checkpoint."""
    _, run = web.run(request)
    return web.download(overview.file_of(run, request.path_params["file"]), "application/octet-stream")


def sample(request: Request) -> Response:
    """Send a sample image."""
    folder, _ = web.run(request)
    path = overview.sample_file(folder, _history(request, folder), request.path_params["file"])
    return web.download(path, "image/png", inline=True)


def log(request: Request) -> Response:
    """Send the whole log of an attempt."""
    _, run = web.run(request)
    number = request.path_params["number"]
    path = overview.log_of(run, number) if number else None
    return web.download(path, "text/plain; charset=utf-8", inline=True)


# -- several


def _chosen(request: Request) -> list[tuple[Path, Record]]:
    names = dict.fromkeys(request.query_params.getlist("run"))
    found = [run for name in names if (run := run_index.at(web.checkout(request), name))]
    if not found:
        raise HTTPException(404, "there are no such runs")
    return found


def show_compared(request: Request) -> Response:
    """Show several runs beside each other."""
    chosen = _chosen(request)
    rows = [overview.row(folder, run, _history(request, folder)) for folder, run in chosen]
    found = compare.compare(chosen)
    return web.page("compare.html", section="runs", rows=rows, found=found, query=request.url.query)


def compared_curves(request: Request) -> Response:
    """Answer with the curves of several runs."""
    found = [
        {"name": run.name, **_history(request, folder).curves(_POINTS_COMPARED)} for folder, run in _chosen(request)
    ]
    return web.answer({"runs": found})


def _number(request: Request, name: str, otherwise: float) -> float:
    try:
        return float(request.query_params.get(name, ""))
    except ValueError:
        return otherwise


ROUTES = [
    Route("/", list_),
    Route("/runs/events", list_events),
    Route("/runs/compare", show_compared),
    Route("/runs/compare/curves.json", compared_curves),
    Route("/runs/{run}", show),
    Route("/runs/{run}/events", show_events),
    Route("/runs/{run}/curves.json", curves),
    Route("/runs/{run}/files/{file}", file),
    Route("/runs/{run}/samples/{file}", sample),
    Route("/runs/{run}/log/{number:int}", log),
]
