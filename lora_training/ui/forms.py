"""The pages of configurations: the list, and the form with the TOML beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse
from starlette.routing import Route

from lora_training.app import data, drafts
from lora_training.ui import web

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from lora_training.workspace import Workspace

# of the report on data, which has its own style and thumbnails, and no script
_REPORT = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; frame-ancestors 'none'"


class Forms:
    """The configurations of one checkout."""

    def __init__(self, here: Workspace) -> None:
        self.here = here

    def routes(self) -> list[Route]:
        """Return the addresses of these pages."""
        return [
            Route("/configs", self.list_),
            Route("/configs/{name}", self.show),
            Route("/configs/{name}/data", self.data),
            Route("/draft", self.draft, methods=["POST"]),
            Route("/configs/{name}/save", self.save, methods=["POST"]),
            Route("/import", self.import_, methods=["POST"]),
        ]

    def list_(self, _request: Request) -> Response:
        """Show every configuration."""
        return web.page("configs.html", section="configurations", names=drafts.names(self.here))

    def show(self, request: Request) -> Response:
        """Show the form of a configuration; `as` in the address gives it another name, for a new one."""
        name = request.path_params["name"]
        given = request.query_params.get("as")
        text, digest = (drafts.new(self.here, name, given), "") if given else drafts.read(self.here, name)
        return web.page(
            "config.html",
            section="configurations",
            name=given or name,
            digest=digest,
            text=text,
            scripts=drafts.scripts(self.here),
        )

    async def data(self, request: Request) -> Response:
        """Show the images and captions that a configuration will train on."""
        file = drafts.find(self.here, request.path_params["name"])
        return HTMLResponse(await web.threaded(data.report_of, file), headers={"Content-Security-Policy": _REPORT})

    async def draft(self, request: Request) -> Response:
        """Answer with a text after edits: its fields, its problems, and the form if it has changed."""
        wanted = await web.body(request)
        edits = wanted.get("edits")
        if not isinstance(edits, list) or not all(isinstance(each, dict) for each in edits):
            raise HTTPException(400, "edits must be a list")
        name, text = web.text(wanted, "name"), web.text(wanted, "text")
        found = await web.threaded(drafts.show, self.here, name.replace("/", ""), text, edits)
        shape = "|".join(("form", found.script, *(f"{group.title}{len(group.fields)}" for group in found.groups)))
        html = None if wanted.get("shape") == shape else web.fragment("form.html", groups=found.groups)
        return web.answer(
            {
                "text": found.text,
                "values": found.values,
                "problems": found.problems,
                "script": found.script,
                "shape": shape,
                "html": html,
            }
        )

    async def save(self, request: Request) -> Response:
        """Write a configuration below `configs/`."""
        wanted = await web.body(request)
        known = web.text(wanted, "digest") or None
        digest = await web.threaded(
            drafts.save, self.here, request.path_params["name"], web.text(wanted, "text"), known
        )
        return web.answer({"said": "saved", "digest": digest})

    async def import_(self, request: Request) -> Response:
        """Answer with another trainer's file as a configuration."""
        wanted = await web.body(request)
        text, report = await web.threaded(drafts.convert, web.text(wanted, "name"), web.text(wanted, "text"))
        return web.answer({"text": text, "report": report})
