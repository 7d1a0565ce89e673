"""The pages of configurations: the list, and the form with the TOML beside it."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from lora_training.app import data, drafts
from lora_training.ui import web

# of the report on data, which has its own style and thumbnails, and no script
_REPORT = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; frame-ancestors 'none'"


def list_(request: Request) -> Response:
    """Show every configuration."""
    return web.page("configs.html", section="configurations", names=drafts.names(web.checkout(request)))


def show(request: Request) -> Response:
    """Show the form of a configuration; `as` in the address gives it another name, for a new one."""
    here, name, given = web.checkout(request), request.path_params["name"], request.query_params.get("as")
    text, digest = (drafts.new(here, name, given), "") if given else drafts.read(here, name)
    shown: dict[str, Any] = {"name": given or name, "digest": digest, "text": text, "scripts": drafts.scripts(here)}
    return web.page("config.html", section="configurations", **shown)


def show_data(request: Request) -> Response:
    """Show the images and captions that a configuration will train on."""
    file = drafts.find(web.checkout(request), request.path_params["name"])
    return HTMLResponse(data.report_of(file), headers={"Content-Security-Policy": _REPORT})


async def draft(request: Request) -> Response:
    """Answer with a text after edits: its fields, its problems, and the form if it has changed."""
    wanted = await web.body(request)
    edits = wanted.get("edits")
    if not isinstance(edits, list) or not all(isinstance(each, dict) for each in edits):
        raise HTTPException(400, "edits must be a list")
    name, text = web.text(wanted, "name"), web.text(wanted, "text")
    found = await run_in_threadpool(drafts.show, web.checkout(request), name.replace("/", ""), text, edits)
    shape = "|".join(("form", found.script, *(f"{group.title}{len(group.fields)}" for group in found.groups)))
    html = None if wanted.get("shape") == shape else web.fragment("form.html", groups=found.groups)
    shown = {name: value for name, value in vars(found).items() if name != "groups"}
    return web.answer({**shown, "shape": shape, "html": html})


async def save(request: Request) -> Response:
    """Write a configuration below `configs/`."""
    here, wanted = web.checkout(request), await web.body(request)
    text, known = web.text(wanted, "text"), web.text(wanted, "digest") or None
    digest = await run_in_threadpool(drafts.save, here, request.path_params["name"], text, known)
    return web.answer({"said": "saved", "digest": digest})


async def import_(request: Request) -> Response:
    """Answer with another trainer's file as a configuration."""
    wanted = await web.body(request)
    text, report = await run_in_threadpool(drafts.convert, web.text(wanted, "name"), web.text(wanted, "text"))
    return web.answer({"text": text, "report": report})


ROUTES = [
    Route("/configs", list_),
    Route("/configs/{name}", show),
    Route("/configs/{name}/data", show_data),
    Route("/configs/{name}/save", save, methods=["POST"]),
    Route("/draft", draft, methods=["POST"]),
    Route("/import", import_, methods=["POST"]),
]
