"""A container engine's HTTP API on a Unix socket, as its documentation has it; its containers are plain processes.

Since folders are mounted where they are, a process of this machine finds all that a container would. What is not
checked here is that nothing else is needed: a process sees the whole machine.

https://docs.docker.com/reference/api/engine/version/v1.47/
"""

from __future__ import annotations

import json
import os
import re
import signal
import socketserver
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

# the documented properties of the body of /containers/create, and those of its HostConfig and Mounts, that make sense
# for a container that is neither a service nor on Windows
CONFIG = {
    *("Hostname", "Domainname", "User", "AttachStdin", "AttachStdout", "AttachStderr", "ExposedPorts", "Tty"),
    *("OpenStdin", "StdinOnce", "Env", "Cmd", "Healthcheck", "Image", "Volumes", "WorkingDir", "Entrypoint"),
    *("NetworkDisabled", "MacAddress", "Labels", "StopSignal", "StopTimeout", "HostConfig", "NetworkingConfig"),
}
HOST_CONFIG = {
    *("Binds", "Mounts", "DeviceRequests", "GroupAdd", "Init", "IpcMode", "LogConfig", "Memory", "NetworkMode"),
    *("ReadonlyRootfs", "SecurityOpt", "ShmSize", "Tmpfs", "Ulimits", "UsernsMode", "AutoRemove"),
}
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
# the API's error for a GPU without the toolkit, as users report it
NO_GPU = 'could not select device driver "" with capabilities: [[gpu]]'


@dataclass
class Container:
    """A container: its creation request and the process that stands for it."""

    id: str
    name: str
    body: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None
    reader: Any = None
    signals: list[str] = field(default_factory=list)
    over: bool = False
    out_of_memory: bool = False

    def state(self) -> dict[str, Any]:
        # as in an engine: a process has ended once it has been waited for
        code = self.process.poll() if self.process else None
        running = self.process is not None and code is None and not self.over
        status = "running" if running else "created" if self.process is None and not self.over else "exited"
        ended = 0 if code is None else code if code >= 0 else 128 - code
        return {
            "Status": status,
            "Running": running,
            "OOMKilled": self.out_of_memory,
            "ExitCode": ended,
            "Error": "",
        }


@dataclass
class Engine:
    """The state of the engine, and the requests that it received.

    `command` stands for the image's entry point, `env` for its environment; `images` has the labels of each.
    """

    command: list[str]
    images: dict[str, dict[str, str]] = field(default_factory=dict)
    version: dict[str, Any] = field(default_factory=lambda: {"ApiVersion": "1.47", "Version": "27.0"})
    info: dict[str, Any] = field(default_factory=lambda: {"SecurityOptions": ["name=seccomp,profile=builtin"]})
    env: dict[str, str] = field(default_factory=dict)
    gpus: bool = False
    conflict: int = 409
    requests: list[tuple[str, str]] = field(default_factory=list)
    containers: dict[str, Container] = field(default_factory=dict)
    removed: list[Container] = field(default_factory=list)
    socket: Path = Path()

    @property
    def address(self) -> str:
        return f"unix://{self.socket}"

    def find(self, key: str) -> Container:
        found = [one for one in self.containers.values() if key in (one.id, one.name)]
        if not found:
            raise Refused(404, f"No such container: {key}")
        return found[0]


class Refused(Exception):
    """An answer that is an error: its status and its message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def address_string(self) -> str:
        return "a socket"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        engine = self.server.engine
        asked = urlsplit(self.path)
        path = re.sub(r"^/v\d+\.\d+", "", unquote(asked.path))
        query = {key: values[0] for key, values in parse_qs(asked.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        engine.requests.append((method, path))
        for wanted, pattern, action in ROUTES:
            found = re.fullmatch(pattern, path)
            if wanted == method and found:
                try:
                    action(self, engine, found, query, body)
                except Refused as exc:
                    self._json(exc.status, {"message": exc.message})
                except Exception as exc:  # noqa: BLE001 - a fault of this file, which must not leave anyone waiting
                    self._json(500, {"message": f"the fake engine failed: {exc!r}"})
                return
        self._json(404, {"message": "page not found"})

    def _json(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode() if value is not None else b""
        self.send_response(status)
        if data:
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def version(self, engine: Engine, _found: Any, _query: Any, _body: Any) -> None:
        self._json(200, engine.version)

    def info(self, engine: Engine, _found: Any, _query: Any, _body: Any) -> None:
        self._json(200, engine.info)

    def image(self, engine: Engine, found: Any, _query: Any, _body: Any) -> None:
        if found[1] not in engine.images:
            raise Refused(404, f"No such image: {found[1]}")
        self._json(200, {"Id": "sha256:0", "Config": {"Labels": engine.images[found[1]]}})

    def create(self, engine: Engine, _found: Any, query: Any, body: Any) -> None:
        unknown = [*(set(body) - CONFIG), *(set(body["HostConfig"]) - HOST_CONFIG)]
        name = query["name"]
        if unknown or not NAME.fullmatch(name):
            raise Refused(400, f"bad parameter: {unknown or name}")
        if body["Image"] not in engine.images:
            raise Refused(404, f"No such image: {body['Image']}")
        for mount in body["HostConfig"].get("Mounts") or ():
            if not Path(mount["Source"]).exists():
                said = f"bind source path does not exist: {mount['Source']}"
                raise Refused(400, f'invalid mount config for type "bind": {said}')
        there = [one for one in engine.containers.values() if one.name == name]
        if there:
            said = f'Conflict. The container name "/{name}" is already in use by container "{there[0].id}".'
            raise Refused(engine.conflict, said)
        made = Container(f"{len(engine.containers) + len(engine.removed):064x}", name, body)
        engine.containers[made.id] = made
        self._json(201, {"Id": made.id, "Warnings": []})

    def attach(self, engine: Engine, found: Any, query: Any, _body: Any) -> None:
        """From here on the connection is the container's output: raw of a terminal, else in frames of 8 + n bytes."""
        container = engine.find(found[1])
        assert query["stream"] == "1"
        assert self.headers["Upgrade"] == "tcp"
        self.send_response_only(101, "UPGRADED")
        kind = "raw" if container.body.get("Tty") else "multiplexed"
        self.send_header("Content-Type", f"application/vnd.docker.{kind}-stream")
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "tcp")
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True
        container.reader = Attached(self.wfile, raw=bool(container.body.get("Tty")))
        container.reader.done.wait()

    def start(self, engine: Engine, found: Any, _query: Any, _body: Any) -> None:
        container = engine.find(found[1])
        if container.body["HostConfig"].get("DeviceRequests") and not engine.gpus:
            raise Refused(500, NO_GPU)
        variables = dict(item.split("=", 1) for item in container.body.get("Env") or ())
        env = {
            "PATH": os.environ["PATH"],
            "OMP_NUM_THREADS": "1",
            **engine.env,
            **variables,
        }
        container.process = subprocess.Popen(
            [*engine.command, *container.body["Cmd"]],
            cwd="/",
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        container.reader.follow(container.process)
        self._json(204, None)

    def inspect(self, engine: Engine, found: Any, _query: Any, _body: Any) -> None:
        container = engine.find(found[1])
        config = {"Tty": bool(container.body.get("Tty")), "Labels": container.body.get("Labels") or {}}
        self._json(
            200, {"Id": container.id, "Name": f"/{container.name}", "State": container.state(), "Config": config}
        )

    def kill(self, engine: Engine, found: Any, query: Any, _body: Any) -> None:
        container = engine.find(found[1])
        container.signals.append(query.get("signal", "SIGKILL"))
        if not container.state()["Running"]:
            raise Refused(409, f"Container {container.id} is not running")
        assert container.process
        container.process.send_signal(signal.Signals[container.signals[-1]])
        self._json(204, None)

    def resize(self, engine: Engine, found: Any, query: Any, _body: Any) -> None:
        engine.find(found[1]).signals.append(f"{query['w']}x{query['h']}")
        self._json(200, None)

    def remove(self, engine: Engine, found: Any, query: Any, _body: Any) -> None:
        container = engine.find(found[1])
        assert query["v"] == "True"
        if container.state()["Running"]:
            if query.get("force") != "True":
                raise Refused(409, "cannot remove container: container is running")
            assert container.process
            os.killpg(container.process.pid, signal.SIGKILL)
        engine.removed.append(engine.containers.pop(container.id))
        self._json(204, None)


ROUTES = (
    ("GET", "/version", Handler.version),
    ("GET", "/info", Handler.info),
    ("GET", "/images/(.+)/json", Handler.image),
    ("POST", "/containers/create", Handler.create),
    ("POST", "/containers/([^/]+)/attach", Handler.attach),
    ("POST", "/containers/([^/]+)/start", Handler.start),
    ("GET", "/containers/([^/]+)/json", Handler.inspect),
    ("POST", "/containers/([^/]+)/kill", Handler.kill),
    ("POST", "/containers/([^/]+)/resize", Handler.resize),
    ("DELETE", "/containers/([^/]+)", Handler.remove),
)


class Attached:
    """One who reads a container's output, over a connection."""

    def __init__(self, out: Any, *, raw: bool) -> None:
        self.out, self.raw = out, raw
        self.done = threading.Event()
        self.turn = threading.Lock()

    def follow(self, process: subprocess.Popen[bytes]) -> None:
        pumps = [threading.Thread(target=self._pump, args=pair) for pair in ((process.stdout, 1), (process.stderr, 2))]
        for pump in pumps:
            pump.start()

        def end() -> None:
            for pump in pumps:
                pump.join()
            process.wait()
            self.done.set()

        threading.Thread(target=end).start()

    def _pump(self, stream: Any, number: int) -> None:
        while chunk := stream.read1(4096):
            header = b"" if self.raw else struct.pack(">BxxxL", number, len(chunk))
            with self.turn:
                try:
                    self.out.write(header + chunk)
                    self.out.flush()
                except OSError:
                    continue  # nobody listens any more; the container goes on


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    engine: Engine


def serve(engine: Engine, socket: Path) -> Server:
    """Start to answer on `socket`."""
    engine.socket = socket
    server = Server(str(socket), Handler)
    server.engine = engine
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def lora() -> list[str]:
    """The image's entry point."""
    return [sys.executable, "-m", "lora_training"]
