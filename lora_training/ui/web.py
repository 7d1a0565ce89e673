"""Requests and responses: templates, JSON, errors as answers, files that were opened safely."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from lora_training import files, printable
from lora_training.errors import LoraError
from lora_training.supervise import run_index
from lora_training.supervise.record import Record
from lora_training.workspace import Workspace

_CHUNK = 2**18
_MOST = 8 * 2**20


@functools.cache
def _templates() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
    )
    found.filters |= {"version": version, "when": _when, "short": lambda text: str(text)[:7]}
    return found


def _shown(value: Any) -> Any:
    """Escape characters that are invisible or reorder a line; a template's own markup stays as it is."""
    return printable.lines(value) if type(value) is str else "" if value is None else value


def version(html: str) -> str:
    """Return a short digest of a part of a page, by which its script knows that it has it already."""
    return hashlib.sha256(html.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def fragment(template: str, /, **values: Any) -> str:
    """Return a template as HTML."""
    return _templates().get_template(template).render(values)


def page(template: str, /, status: int = 200, **values: Any) -> Response:
    """Return a template as a page."""
    return HTMLResponse(fragment(template, **values), status)


def answer(document: Any, status: int = 200) -> Response:
    """Return a JSON document."""
    return Response(json.dumps(document, default=str), status, media_type="application/json")


def checkout(request: Request) -> Workspace:
    """Return the checkout that this server shows."""
    found: Workspace = request.app.state.checkout
    return found


def run(request: Request) -> tuple[Path, Record]:
    """Return the run whose id is in the address."""
    found = run_index.at(checkout(request), request.path_params["run"])
    if found is None:
        raise HTTPException(404, "there is no such run")
    return found


async def body(request: Request) -> dict[str, Any]:
    """Return the JSON object that a request sends."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > _MOST:
            raise HTTPException(413, "it is too large")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise HTTPException(400, "a JSON object is expected")
    return found


def text(found: dict[str, Any], name: str) -> str:
    """Return a text of a JSON object; anything else is refused."""
    value = found.get(name)
    if not isinstance(value, str):
        raise HTTPException(400, f"{name} must be a text")
    # half of a character, which no file can have
    return value.encode("utf-8", "replace").decode()


def refused(request: Request, exc: Exception) -> Response:
    """Return an error of a use case as an answer: as JSON to a script, as a page to a person."""
    if isinstance(exc, LoraError):
        status, message, hint = 409, exc.message, exc.hint
    else:
        status, message, hint = getattr(exc, "status_code", 500), str(getattr(exc, "detail", exc)), None
    if request.method == "POST" or request.url.path.endswith(".json"):
        return answer({"error": printable.lines(message), "hint": hint and printable.lines(hint)}, status)
    return page("error.html", status, message=message, hint=hint, section="")


def download(path: Path | None, media_type: str, *, inline: bool = False) -> Response:
    """Return a regular file; a link is not followed."""
    try:
        if path is None:
            raise FileNotFoundError
        file = open(path, "rb", opener=files.opener)  # noqa: SIM115 - closed at the end of the stream
    except (OSError, ValueError):
        raise HTTPException(404, "there is no such file") from None

    def chunks() -> Iterator[bytes]:
        with file:
            while chunk := file.read(_CHUNK):
                yield chunk

    name = quote(path.name, errors="replace")
    headers = {
        "Content-Length": str(os.fstat(file.fileno()).st_size),
        "Content-Disposition": f"{'inline' if inline else 'attachment'}; filename*=utf-8''{name}",
        "Cache-Control": "private, max-age=3600" if inline else "no-store",
    }
    return StreamingResponse(chunks(), media_type=media_type, headers=headers)
