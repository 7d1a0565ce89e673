"""Who may see the page, and who may change something."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers import ROOT, lora
from tests.ui.records import Made, png

if TYPE_CHECKING:
    from tests.ui.conftest import Server

STOP = {"Content_Type": "application/json"}


def test_without_the_token_nothing_is_shown(server: Server) -> None:
    for path in ("/", "/runs/events", "/static/style.css", "/gpus.json", "/no-such-page"):
        status, _, content = server.ask(path, Authorization=None)
        assert (status, b"lora ui" in content) == (401, True)
    assert server.ask("/?token=wrong", Authorization=None)[0] == 401
    assert server.ask("/", Authorization="Bearer wrong")[0] == 401
    assert server.ask("/")[0] == 200


def test_the_address_becomes_a_cookie_that_no_script_and_no_other_site_has(server: Server) -> None:
    status, headers, content = server.ask(f"/?token={server.token}", Authorization=None)
    cookie = headers["set-cookie"]
    assert status == 200
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert server.token not in content.decode()
    assert server.ask("/", Authorization=None, Cookie=cookie.partition(";")[0])[0] == 200


def test_the_token_is_the_users_alone_and_outlives_the_server(server: Server) -> None:
    path = ROOT / ".lora" / "ui" / f"token-{os.geteuid()}"
    assert path.stat().st_mode & 0o077 == 0
    assert path.read_text(encoding="utf-8").strip() == server.token


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "192.0.2.7:80", "localhost@evil", "", "a b"]
)
def test_a_host_that_is_not_this_one_is_misdirected(server: Server, host: str) -> None:
    assert server.ask("/", Host=host)[0] == 421


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "LOCALHOST:9000", "[::1]:8765"])
def test_any_port_of_this_machine_serves_for_a_tunnel(server: Server, host: str) -> None:
    assert server.ask("/", Host=host)[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content_Type": None}, 415),
        ({"Authorization": None}, 401),
    ],
)
def test_a_change_that_another_site_could_send_is_refused(
    server: Server, tmp_path: Path, headers: dict[str, Any], status: int
) -> None:
    run = Made(tmp_path)
    assert server.ask(f"/runs/{run.id}/stop", {}, **headers)[0] == status
    assert not (run.folder / "stop").exists()


def test_a_change_by_a_link_is_no_change(server: Server, tmp_path: Path) -> None:
    run = Made(tmp_path)
    assert server.ask(f"/runs/{run.id}/stop")[0] == 405


@pytest.mark.parametrize("data", ["", "[]", "{", "[" * 100_000, '"x"'])
def test_a_change_without_an_object_is_refused(server: Server, data: str) -> None:
    assert server.ask("/train", data)[0] == 400
    assert server.ask("/train", json.dumps({"name": ["x"]}))[0] == 400
    assert server.ask("/queue/change", {"name": "x", "do": ["pause"]})[0] == 400


def test_every_answer_has_the_headers_that_keep_others_out(server: Server) -> None:
    for path, headers in (("/", {}), ("/", {"Host": "evil.example"}), ("/static/page.js", {})):
        found = server.ask(path, **headers)[1]
        assert found["content-security-policy"].startswith("default-src 'self';")
        assert "frame-ancestors 'none'" in found["content-security-policy"]
        assert found["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in found


@pytest.mark.parametrize(
    "name",
    ["..%2f..%2f..%2fetc%2fpasswd", "../run.json", "run.json", "%00", "0" * 16, "cats.safetensors", "....//run.json"],
)
def test_files_go_by_id_and_never_by_path(server: Server, tmp_path: Path, name: str) -> None:
    run = Made(tmp_path)
    run.output.write_bytes(b"tensors")
    for place in ("files", "samples", "log"):
        assert server.ask(f"/runs/{run.id}/{place}/{name}")[0] == 404
    assert server.ask(f"/runs/{name}")[0] == 404
    assert server.ask("/static/../app.py")[0] == 404


def test_a_link_in_place_of_a_file_is_not_followed(server: Server, tmp_path: Path) -> None:
    run = Made(tmp_path)
    run.output.symlink_to("/etc/passwd")
    page = server.ask(f"/runs/{run.id}")[2].decode()
    (address,) = re.findall(rf"/runs/{run.id}/files/\w+", page)
    assert server.ask(address)[0] == 404
    outside = run.sample(0, 0, "x", png(1, 2, 3))
    outside.unlink()
    outside.symlink_to("/etc/passwd")
    (address, *_) = re.findall(rf"/runs/{run.id}/samples/\w+", server.ask(f"/runs/{run.id}")[2].decode())
    assert server.ask(address)[0] == 404


def test_a_sample_that_an_event_places_elsewhere_is_looked_for_in_the_run_alone(server: Server, tmp_path: Path) -> None:
    run = Made(tmp_path)
    (tmp_path / "secret.png").write_bytes(b"secret")
    run.add("sample", path=str(tmp_path / "secret.png"), step=1, prompt="x", number=0, seed=1)
    (address, *_) = re.findall(rf"/runs/{run.id}/samples/\w+", server.ask(f"/runs/{run.id}")[2].decode())
    assert server.ask(address)[0] == 404


ALL = "0.0.0.0"  # noqa: S104 - the option under test
HOSTILE = "<img src=x onerror=alert(1)>\"'&\u202e\ud800</script>{{7*7}}"


def test_nothing_from_a_record_is_markup(server: Server, tmp_path: Path) -> None:
    run = Made(tmp_path, state="failed", why=HOSTILE, config=f"/x/{HOSTILE}.toml", tensorboard=f"/x/{HOSTILE}")
    (run.folder / "attempt-1.log").write_text(HOSTILE, encoding="utf-8", errors="surrogatepass")
    (run.folder / "config.toml").write_text(f"# {HOSTILE}", encoding="utf-8", errors="surrogatepass")
    (run.folder / "origins.json").write_text(json.dumps({HOSTILE: HOSTILE}), encoding="utf-8")
    run.begin(10)
    run.add("sample", path=f"/x/{HOSTILE}", step=1, prompt=None, number=0, seed=None)
    run.sample(0, 0, HOSTILE, png(1, 2, 3))
    run.add("restart", why=HOSTILE, from_step=0, death="x")
    other = Made(tmp_path / "other", "dogs", rate=2)
    for field, value in (("output", f"/x/{HOSTILE}.safetensors"), ("output", "/x/" + "y" * 5000)):
        strange = Made(tmp_path / str(len(value)), **{field: value})
        assert server.ask(f"/runs/{strange.id}")[0] == 200
    for path in ("/", f"/runs/{run.id}", f"/runs/compare?run={run.id}&run={other.id}"):
        status, _, content = server.ask(path)
        assert status == 200
        assert b"<img src=x" not in content
        for address in re.findall(rf"/runs/{run.id}/samples/\w+", content.decode()):
            assert server.ask(address)[0] in (200, 404)
        assert b"</script>{{" not in content
        assert "\u202e".encode() not in content


@pytest.mark.parametrize(
    "line", ["[]", "1", "{}", '{"event":"step"}', '{"event":"step","step":"x","lr":3}', "x" * 9999]
)
def test_events_that_are_none_are_passed_over(server: Server, tmp_path: Path, line: str) -> None:
    run = Made(tmp_path)
    run.events.write_text(line + "\n", encoding="utf-8")
    run.begin(5)
    run.steps(1, 2)
    assert server.ask(f"/runs/{run.id}")[0] == 200
    assert server.ask(f"/runs/{run.id}/curves.json")[2]["step"] == [1, 2]


def test_what_is_downloaded_is_the_file(server: Server, tmp_path: Path) -> None:
    run = Made(tmp_path)
    run.output.write_bytes(b"tensors")
    (address,) = re.findall(rf"/runs/{run.id}/files/\w+", server.ask(f"/runs/{run.id}")[2].decode())
    _, headers, content = server.ask(address)
    assert content == b"tensors"
    assert "attachment; filename*=utf-8''cats.safetensors" in headers["content-disposition"]


def test_another_address_demands_the_token_and_names_the_tunnel(serve: Callable[..., Server]) -> None:
    server = serve("--host", ALL, "--allow-host", "Trainer.example", "--allow-host", "")
    assert server.ask("/gpus.json", Host="[")[0] == 421
    assert server.ask("/", Authorization=None)[0] == 401
    for host, status in {"192.0.2.7:80": 200, "trainer.example": 200, "evil.example": 421}.items():
        assert server.ask("/", Host=host)[0] == status
    server.process.terminate()
    said = server.process.communicate(timeout=20)[1]
    assert "warning: others in the network can reach port" in said
    assert f"ssh -L {server.port}:127.0.0.1:{server.port}" in said


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)])
def test_it_ends_quietly_also_while_somebody_looks(serve: Callable[..., Server], signum: int, code: int) -> None:
    server = serve()
    with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
        connection.request("GET", "/runs/events", headers={"Authorization": f"Bearer {server.token}"})
        connection.getresponse().readline()
        server.process.send_signal(signum)
        said = server.process.communicate(timeout=20)[1]
    assert (server.process.returncode, said) == (code, "Ctrl-C ends the page; runs go on\n")


def test_a_port_that_is_taken_is_one_sentence(server: Server) -> None:
    ran = lora("ui", "--port", str(server.port), cwd=ROOT)
    assert ran.code == 1
    assert ran.err.startswith(f"error: cannot listen at 127.0.0.1, port {server.port}: ")
    assert "hint: " in ran.err


def test_without_its_packages_the_command_says_how_to_get_them(tmp_path: Path) -> None:
    start = "import sys; sys.modules['starlette'] = None; from lora_training.cli import run; sys.exit(run(['ui']))"
    ran = subprocess.run([sys.executable, "-c", start], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, "make setup" in ran.stderr) == (4, True)
