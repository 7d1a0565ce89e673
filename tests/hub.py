"""A hub for huggingface_hub to ask, on this machine: the few answers that bring the files of a repository."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 40


@dataclass
class Hub:
    """The repositories, with their files by path; those that are gated; the requests that came."""

    files: Mapping[str, Mapping[str, bytes]]
    gated: Collection[str] = ()
    asked: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Answer until the block ends; `hub.env` sends huggingface_hub here."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": hub}))
    hub.env |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "NO_PROXY": "127.0.0.1"}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Answers(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0].removeprefix("/api/models/").lstrip("/")
        owner, name, *rest = path.split("/")
        repository = f"{owner}/{name}"
        files = self.hub.files.get(repository)
        if files is None:
            self._refuse(404, "RepoNotFound")
        elif repository in self.hub.gated and rest[:1] in (["resolve"], ["auth-check"]):
            self._refuse(403, "GatedRepo")
        elif self.path.startswith("/api/"):
            siblings = [{"rfilename": each} for each in files]
            self._answer(json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings}).encode())
        elif (inner := "/".join(rest[2:])) in files:
            self._answer(files[inner])
        else:
            self._refuse(404, "EntryNotFound")

    def _refuse(self, code: int, why: str) -> None:
        self.send_response(code)
        self.send_header("X-Error-Code", why)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
