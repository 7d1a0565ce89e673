"""The page's server as a process of its own, and one real browser for all tests."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from lora_training import workspace
from tests.helpers import ROOT

# Debian's package; a desktop's browser serves as well
_BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
# where the pictures of each view go
SHOTS = Path(os.environ.get("PYTEST_SHOTS", ROOT / ".lora" / "screenshots"))


class Server:
    """`lora ui` at some port, with a list of runs of its own."""

    def __init__(self, *words: str, port: int = 0, env: dict[str, str] | None = None) -> None:
        argv = [sys.executable, "-m", "lora_training", "ui", "--port", str(port), *words]
        own = {**os.environ, **(env or {})}
        self.process = subprocess.Popen(
            argv, cwd=ROOT, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        said = self.process.stdout.readline()
        found = re.search(r"http://\S+", said)
        assert found, said
        self.address = urlsplit(found[0])
        self.token = self.address.query.removeprefix("token=")
        self.port = int(self.address.port or 0)

    @property
    def entry(self) -> str:
        return self.address.geturl()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def ask(
        self, path: str, data: Any = None, method: str | None = None, **headers: str | None
    ) -> tuple[int, Any, Any]:
        """Status, headers and content of an answer, with the token unless it is given otherwise."""
        given = {"Authorization": f"Bearer {self.token}", "Host": f"127.0.0.1:{self.port}"}
        if data is not None:
            given["Content-Type"] = "application/json"
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        body = data if data is None or isinstance(data, (str, bytes)) else json.dumps(data)
        raw = body.encode() if isinstance(body, str) else body
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.putrequest(method or ("GET" if data is None else "POST"), path, skip_host=True)
            for name, value in given.items():
                if value is not None:
                    connection.putheader(name, value)
            if raw is not None:
                connection.putheader("Content-Length", str(len(raw)))
            connection.endheaders(raw)
            answer = connection.getresponse()
            content = answer.read()
        is_json = answer.headers.get_content_type() == "application/json"
        return answer.status, answer.headers, json.loads(content) if is_json else content

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        if not self.process.stdout.closed:
            self.process.communicate(timeout=20)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The list of runs of a module's server."""
    return tmp_path_factory.mktemp("list")


@pytest.fixture(autouse=True)
def same_list(own_list: None, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(workspace.RUNS_VARIABLE, str(runs))


@pytest.fixture(scope="module")
def server(runs: Path) -> Iterator[Server]:
    found = Server(env={workspace.RUNS_VARIABLE: str(runs)})
    yield found
    found.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose configurations may be written."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("lora_training", "patches", "third_party"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / ".gitmodules", folder)
    shutil.copytree(ROOT / "configs", folder / "configs")
    return folder


@pytest.fixture(scope="module")
def its_environment(home: Path, runs: Path) -> dict[str, str]:
    cache = workspace.Workspace(ROOT).cache
    return {"LORA_HOME": str(home), "LORA_CACHE": str(cache), workspace.RUNS_VARIABLE: str(runs)}


@pytest.fixture(scope="module")
def at_home(its_environment: dict[str, str]) -> Iterator[Server]:
    """The server of that checkout."""
    found = Server(env=its_environment)
    yield found
    found.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start a server that ends with the test."""
    with ExitStack() as servers:

        def start(*words: str, port: int = 0, env: dict[str, str] | None = None) -> Server:
            server = Server(*words, port=port, env=env)
            servers.callback(server.close)
            return server

        yield start


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        pytest.skip("needs a browser: apt-get install chromium-headless-shell")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page with the token's cookie; an error in a script fails the test."""
    server = request.getfixturevalue("at_home" if "at_home" in request.fixturenames else "server")
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    found = context.new_page()
    errors: list[str] = []
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.goto(server.entry)
    found.wait_for_url(server.url("/"))
    yield found
    context.close()
    assert errors == []


@pytest.fixture(scope="session")
def shoot() -> Callable[[Any, str], None]:
    """Keep a picture of a page, wide and phone-sized, light and dark; nothing may be wider than the window."""

    def keep(page: Any, name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.evaluate("scrollTo(0, 0)")
        for size, width, scheme in (("wide", 1280, "light"), ("phone", 390, "dark")):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 860})
            page.screenshot(path=SHOTS / f"{name}-{size}-{scheme}.png", full_page=True)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.set_viewport_size({"width": 1280, "height": 900})

    return keep


def until(what: Callable[[], Any], seconds: float = 60) -> Any:
    """Ask until the answer is true; the time is a limit for a machine that does nothing any more."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it has not come"
        time.sleep(0.05)
    return found
