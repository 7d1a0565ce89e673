"""The pages of runs: the list, one run, several compared, and the GPUs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.routing import Route

from lora_training.app import compare, overview, recording, runs
from lora_training.supervise import run_index
from lora_training.ui import live, web

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response

    from lora_training.supervise.record import Record
    from lora_training.workspace import Workspace

_POINTS, _POINTS_COMPARED, _MOST_POINTS = 1500, 400, 20_000
_FILE = "application/octet-stream"


class Pages:
    """The pages of one checkout's runs."""

    def __init__(self, here: Workspace, histories: overview.Histories) -> None:
        self.here, self.histories = here, histories

    def routes(self) -> list[Route]:
        """Return the addresses of these pages."""
        return [
            Route("/", self.list_),
            Route("/runs/events", self.list_events),
            Route("/runs/compare", self.compare),
            Route("/runs/compare/curves.json", self.compare_curves),
            Route("/runs/{run}", self.show),
            Route("/runs/{run}/events", self.show_events),
            Route("/runs/{run}/curves.json", self.curves),
            Route("/runs/{run}/files/{file}", self.file),
            Route("/runs/{run}/samples/{file}", self.sample),
            Route("/runs/{run}/log/{number:int}", self.log),
        ]

    def _run(self, request: Request) -> tuple[Path, Record]:
        found = run_index.at(self.here, request.path_params["run"])
        if found is None:
            raise HTTPException(404, "there is no such run")
        return found

    def _chosen(self, request: Request) -> list[tuple[Path, Record]]:
        names = dict.fromkeys(request.query_params.getlist("run"))
        found = [run for name in names if (run := run_index.at(self.here, name))]
        if not found:
            raise HTTPException(404, "there are no such runs")
        return found

    # -- the list

    def list_(self, _request: Request) -> Response:
        """Show every run."""
        return web.page("runs.html", section="runs", parts=self._list_parts())

    def list_events(self, request: Request) -> Response:
        """Stream the rows that change."""
        return live.stream(request, self._list_parts)

    def _list_parts(self) -> dict[str, str]:
        rows = overview.rows(self.here, self.histories)
        parts = {row["id"]: web.fragment("row.html", row=row) for row in rows}
        return {"order": " ".join(parts), **parts}

    # -- one run

    def show(self, request: Request) -> Response:
        """Show one run."""
        folder, run = self._run(request)
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
        return web.page("run.html", section="runs", id=ident, parts=self._parts(ident), **values)

    def show_events(self, request: Request) -> Response:
        """Stream the run's events, and the parts of its page that change."""
        folder, _ = self._run(request)
        return live.stream(request, partial(self._parts, run_index.ident(folder)), folder)

    def _parts(self, ident: str) -> dict[str, str]:
        found = run_index.at(self.here, ident)
        if found is None:
            return {}
        folder, run = found
        history = self.histories.of(folder)
        values: dict[str, Any] = {
            "row": overview.row(folder, run, history),
            "marks": history.marks[::-1],
            "files": overview.files_of(run),
            "states": overview.states_of(run),
            "samples": overview.samples_of(history),
            "log": overview.log_tail(overview.log_of(folder, run)),
        }
        return {
            name: web.fragment(f"run_{name}.html", **values) for name in ("head", "files", "samples", "marks", "log")
        }

    def curves(self, request: Request) -> Response:
        """Answer with the run's curves, or a part of them."""
        folder, _ = self._run(request)
        low, high, points = (_number(request, name) for name in ("low", "high", "points"))
        number = int(min(points, _MOST_POINTS)) if points and points > 0 else _POINTS
        return web.answer(overview.curves(self.histories.of(folder), number, low, high))

    def file(self, request: Request) -> Response:
        """Send a LoRA or checkpoint."""
        _, run = self._run(request)
        return web.download(overview.file_of(run, request.path_params["file"]), _FILE)

    def sample(self, request: Request) -> Response:
        """Send a sample image."""
        folder, _ = self._run(request)
        path = overview.sample_file(folder, self.histories.of(folder), request.path_params["file"])
        return web.download(path, "image/png", inline=True)

    def log(self, request: Request) -> Response:
        """Send the whole log of an attempt."""
        folder, run = self._run(request)
        number = request.path_params["number"]
        path = overview.log_of(folder, run, number) if number else None
        return web.download(path, "text/plain; charset=utf-8", inline=True)

    # -- several

    def compare(self, request: Request) -> Response:
        """Show several runs beside each other."""
        chosen = self._chosen(request)
        rows = [overview.row(folder, run, self.histories.of(folder)) for folder, run in chosen]
        found = compare.compare(chosen)
        return web.page("compare.html", section="runs", rows=rows, found=found, query=request.url.query)

    def compare_curves(self, request: Request) -> Response:
        """Answer with the curves of several runs."""
        chosen = self._chosen(request)
        found = [
            {
                "id": run_index.ident(folder),
                "name": run.name,
                "state": runs.state(folder, run),
                **overview.curves(self.histories.of(folder), _POINTS_COMPARED),
            }
            for folder, run in chosen
        ]
        return web.answer({"runs": found})


def _number(request: Request, name: str) -> float | None:
    try:
        return float(request.query_params.get(name, ""))
    except ValueError:
        return None
