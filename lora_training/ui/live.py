"""Server-sent events: a run's own events with their byte offsets as ids, and the parts of a page that have changed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from lora_training.supervise import record
from lora_training.supervise.history import events_since
from lora_training.ui import web

_PAUSE_S = 0.5
# the events that the curve draws; the others change parts of the page
_DRAWN = ("attempt", "step", "skipped", "restart", "closed")


def stream(request: Request, parts: Callable[[], dict[str, str]], folder: Path | None = None) -> Response:
    """Return a stream of the parts that change and, of the run in `folder`, of each new event."""
    after = request.headers.get("last-event-id") or request.query_params.get("after") or ""
    feed = _Feed(parts, folder, int(after) if after.isdecimal() else None)
    headers = {"X-Accel-Buffering": "no"}
    chunks = feed.chunks(request.app.state.is_ending)
    return StreamingResponse(chunks, media_type="text/event-stream", headers=headers)


class _Feed:
    """One connection. `offset` is the end of the last event that it has; None for a page without events."""

    def __init__(self, parts: Callable[[], dict[str, str]], folder: Path | None, offset: int | None) -> None:
        self.parts, self.folder, self.offset = parts, folder, offset
        self.sent: dict[str, str] = {}
        self.file: int | None = None

    async def chunks(self, is_ending: Callable[[], bool]) -> AsyncIterator[str]:
        yield "retry: 1000\n\n"
        while not is_ending():
            said = await run_in_threadpool("".join, self._new())
            # a comment shows that the connection is there
            yield said or ":\n\n"
            await anyio.sleep(_PAUSE_S)

    def _new(self) -> Iterator[str]:
        if self.folder and self.offset is not None:
            yield from self._events(self.folder / record.EVENTS, self.offset)
        for name, html in self.parts().items():
            if self.sent.get(name) != html:
                self.sent[name] = html
                yield _message("part", {"name": name, "html": html, "version": web.version(html)})

    def _events(self, path: Path, offset: int) -> Iterator[str]:
        try:
            known, self.file = self.file, path.stat().st_ino
            # another run has this name now
            offset = -1 if known not in (None, self.file) else offset
            for end, event in events_since(path, offset):
                self.offset = end
                if event.get("event") in _DRAWN:
                    yield f"id: {end}\n" + _message("event", event)
        except EOFError:
            self.offset, self.file = 0, None
            yield _message("reset", None)
        except OSError:
            return


def _message(kind: str, data: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"
