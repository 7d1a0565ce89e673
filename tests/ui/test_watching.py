"""Runs in a real browser, as their records, locks and events say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from lora_training import workspace
from lora_training.supervise import record
from tests.helpers import ROOT, lora
from tests.ui.conftest import Server, until
from tests.ui.records import Made, png

PROMPTS = ("a watercolour fox in the snow", "portrait of sks, 85 mm")


@pytest.fixture
def live(tmp_path: Path) -> Any:
    """A run whose lock another process holds, so that it is running."""
    run = Made(tmp_path, "live", state="running")
    hold = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", hold, str(run.folder / "lock")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        run.pid = holder.pid
        yield run
        holder.kill()


def shown(page: Any) -> tuple[int, int]:
    """The number of steps on the curve, and the last of them."""
    data = page.locator("[data-chart=loss]").evaluate("each => ({...each.dataset})")
    return int(data.get("points", 0)), int(data.get("last", 0))


def test_the_list_is_true_at_once_after_a_process_dies(page: Any, server: Server, live: Made) -> None:
    live.begin(100)
    live.steps(1, 40)
    page.goto(server.url("/"))
    row = page.locator(f'[data-part="{live.id}"]')
    row.get_by_text("running").wait_for()
    live.steps(41, 50)
    row.get_by_text("50").first.wait_for()
    row.get_by_role("checkbox").check()
    assert server.ask(f"/runs/{live.id}/remove", {})[0] == 409
    assert live.events.exists()
    os.kill(live.pid, signal.SIGKILL)
    row.get_by_text("died").wait_for(timeout=2000)
    assert row.get_by_role("checkbox").is_checked()


def test_a_new_run_comes_into_the_list_and_a_removed_one_leaves_it(page: Any, server: Server, tmp_path: Path) -> None:
    page.goto(server.url("/"))
    made = Made(tmp_path, "newcomer")
    page.get_by_text("newcomer").wait_for()
    (made.folder / "run.json").unlink()
    page.get_by_text("newcomer").wait_for(state="detached")


def test_the_address_of_a_run_s_page_outlives_its_folder(server: Server, tmp_path: Path) -> None:
    made = Made(tmp_path / "here", "moved")
    (tmp_path / "here").rename(tmp_path / "there")
    assert server.ask(f"/runs/{made.id}")[0] == 404
    for place in ("there", "elsewhere"):
        if place == "elsewhere":
            (tmp_path / "there").rename(tmp_path / "elsewhere")
        assert lora("runs", "show", tmp_path / place / "moved.run", cwd=ROOT).code == 0
        status, _, content = server.ask(f"/runs/{made.id}")
        assert (status, f"{tmp_path}/{place}/moved.run".encode() in content) == (200, True)


def test_each_event_is_shown_once_over_a_restart_of_the_server_and_a_reload(
    browser: Any, serve: Callable[..., Server], runs: Path, live: Made
) -> None:
    server = serve(env={workspace.RUNS_VARIABLE: str(runs)})
    page = browser.new_page()
    live.begin(1000)
    live.steps(1, 10)
    page.goto(server.entry)
    page.goto(server.url(f"/runs/{live.id}"))
    until(lambda: shown(page) == (10, 10))
    server.kill()
    live.steps(11, 260)
    page.get_by_text("not connected").wait_for()
    serve(port=server.port, env={workspace.RUNS_VARIABLE: str(runs)})
    live.steps(261, 510)
    until(lambda: shown(page)[1] == 510)
    assert shown(page) == (510, 510)
    page.reload()
    until(lambda: shown(page) == (510, 510))
    # half a line is no event yet
    with live.events.open("a", encoding="utf-8") as file:
        file.write('{"event": "step", "step"')
    live.add("note", text="")
    live.steps(511, 511)
    until(lambda: shown(page) == (511, 511))
    page.close()


def test_a_page_whose_curves_do_not_come_says_so_and_tries_again(page: Any, server: Server, tmp_path: Path) -> None:
    run = Made(tmp_path)
    run.begin(10)
    run.steps(1, 10)
    page.route("**/curves.json", lambda route: route.abort())
    page.goto(server.url(f"/runs/{run.id}"))
    page.get_by_text("not connected").wait_for()
    page.unroute("**/curves.json")
    until(lambda: shown(page) == (10, 10))
    page.get_by_text("not connected").wait_for(state="hidden")


def test_a_resumed_run_is_one_curve_with_its_own_time_left(page: Any, server: Server, live: Made, shoot: Any) -> None:
    live.begin(100)
    live.steps(1, 50, each=2)
    live.add("skipped", step=20, images=["/x/a.png"], loss=None, in_a_row=1, rank=0)
    live.add("restart", from_step=40, death="killed", why="the training process was killed")
    live.begin(100, 40, 2)
    page.goto(server.url(f"/runs/{live.id}"))
    live.steps(41, 41, each=1)
    # from its first new step: 59 steps of 1.02 s, not of 2
    page.locator("[data-part=head]").get_by_text("0:01:00").wait_for()
    until(lambda: shown(page) == (41, 50))
    assert page.locator("[data-chart=loss]").get_attribute("data-marks") == "3"
    for text in (
        "step 20 skipped, not finite: a.png",
        "the training process was killed",
        "attempt 2 goes on from step 40",
    ):
        assert page.get_by_text(text).is_visible()
    live.steps(42, 60)
    until(lambda: shown(page) == (60, 60))
    shoot(page, "run")
    again = page.locator(".u-series", has_text="Trained again later")
    again.click()
    live.steps(61, 61)
    until(lambda: shown(page) == (61, 61))
    assert again.is_visible()
    assert "u-off" in again.get_attribute("class")


def test_a_killed_lora_is_a_mark_where_the_run_goes_on(page: Any, server: Server, live: Made) -> None:
    live.begin(100)
    live.steps(1, 9)
    live.begin(100, 8, 2)
    page.goto(server.url(f"/runs/{live.id}"))
    page.get_by_text("the run was killed: nothing was recorded after this step").wait_for()


def test_samples_are_a_grid_with_step_0_first_and_black_ones_flagged(
    page: Any, server: Server, live: Made, shoot: Callable[[Any, str], None]
) -> None:
    live.begin(500)
    for step in (400, 0, 100, 200, 300):
        for number, prompt in enumerate(PROMPTS):
            is_black = (step, number) == (200, 1)
            live.sample(step, number, prompt, png(0, 0, 0) if is_black else png(40, step // 4 + 20, 90), 42 + number)
    page.goto(server.url(f"/runs/{live.id}"))
    grid = page.locator(".grid")
    assert grid.locator("tbody th").all_inner_texts() == ["0", "100", "200", "300", "400"]
    assert grid.locator("thead .prompt").all_inner_texts() == list(PROMPTS)
    assert "seed 43" in grid.locator("thead").inner_text()
    for image in grid.locator("img").all():
        image.scroll_into_view_if_needed()
    page.locator(".sample.black").wait_for()
    assert page.locator(".sample.black").count() == 1
    grid.locator("a.sample").first.click()
    viewer = page.locator("#viewer")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert viewer.locator("p").inner_text() == f"step 100 · {PROMPTS[1]} · seed 43"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert viewer.locator("p").inner_text().startswith("step 0 · a watercolour")
    page.keyboard.press("Escape")
    live.sample(500, 0, PROMPTS[0], png(9, 90, 200))
    grid.get_by_text("500").wait_for()
    shoot(page, "samples")


def test_50_runs_are_compared_and_their_difference_is_exactly_the_changed_keys(
    page: Any, server: Server, tmp_path: Path, shoot: Callable[[Any, str], None]
) -> None:
    made = [Made(tmp_path / str(n), f"run-{n}", rate=n) for n in range(1, 51)]
    for run in made:
        run.begin(2000)
        run.steps(1, 2000)
    page.goto(server.url("/runs/compare?" + "&".join(f"run={run.id}" for run in made)))
    page.locator("[data-lines='50']").wait_for()
    assert page.locator("tr.key td:first-child").all_inner_texts() == ["learning_rate", "output_name"]
    page.goto(server.url("/"))
    for run in made[:2]:
        page.locator(f"[data-part='{run.id}'] input").check()
    page.get_by_role("button", name="Compare 2").click()
    page.locator("[data-lines='2']").wait_for()
    shoot(page, "compare")


def test_100000_steps_are_thinned_out_and_whole_where_one_looks_closer(
    page: Any, server: Server, tmp_path: Path
) -> None:
    run = Made(tmp_path, "long")
    run.begin(100_000)
    run.steps(1, 100_000)
    page.goto(server.url(f"/runs/{run.id}"))
    until(lambda: shown(page)[1] == 100_000)
    assert 500 < shown(page)[0] < 3000
    found = server.ask(f"/runs/{run.id}/curves.json?low=500&high=900")[2]
    assert found["step"] == list(range(500, 901))
    thin = server.ask(f"/runs/{run.id}/curves.json?points=600")[2]
    assert max(thin["loss"][3:]) == max(
        server.ask(f"/runs/{run.id}/curves.json?points=20000&low={thin['step'][3]}")[2]["loss"]
    )
    box = page.locator("[data-chart=loss] .u-over").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 106, box["y"] + 60)
    page.mouse.up()
    page.get_by_role("button", name="Whole curve").click()
    page.get_by_role("button", name="Whole curve").wait_for(state="hidden")


EVIL = """<!doctype html><form method=post action="{0}/runs/{1}/stop"><input name=a></form><iframe src="{0}/"></iframe>
<script>
const wait = (it) => it.then((got) => got.type, () => "refused");
const send = (type) => wait(fetch("{0}/runs/{1}/stop", {{method: "POST", mode: type ? "cors" : "no-cors", body: "{{}}",
  credentials: "include", headers: type ? {{"Content-Type": type}} : {{}}}}));
const read = () => wait(fetch("{0}/gpus.json", {{credentials: "include"}}));
Promise.all([send("application/json"), send("text/plain"), send(""), read()])
  .then((found) => {{ console.log(found.join(" ")); document.forms[0].submit(); }});
</script>"""


def test_a_page_of_another_origin_changes_and_reads_nothing(page: Any, server: Server, live: Made) -> None:
    class Evil(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(EVIL.format(server.url(""), live.id).encode())

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Evil) as evil:
        Thread(target=evil.serve_forever, daemon=True).start()
        # the same site at another port, to which the cookie is sent; and another site
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        for host in ("127.0.0.1", "localhost"):
            with page.expect_navigation(url="**/stop"):
                page.goto(f"http://{host}:{evil.server_port}/")
            assert page.inner_text("body").strip() in ("lora: a request of another origin", ENTRY)
        evil.shutdown()
    # no script of theirs sees an answer: an opaque one has neither status nor content
    found = [line.split() for line in said if line.count(" ") == 3]
    assert len(found) == 2
    assert {word for words in found for word in words} <= {"refused", "opaque"}
    assert not (live.folder / "stop").exists()


ENTRY = "lora: open the address that `lora ui` printed: it has the token"


def test_looking_whether_a_run_is_alive_keeps_none_from_starting(tmp_path: Path) -> None:
    folder = tmp_path / "cats.run"
    folder.mkdir()
    (folder / "lock").touch()
    look = "import pathlib, sys; from lora_training.supervise import record; folder = pathlib.Path(sys.argv[1])\n"
    look += "print(flush=True)\nwhile True: record.is_alive(folder)"
    with subprocess.Popen([sys.executable, "-c", look, str(folder)], cwd=ROOT, stdout=subprocess.PIPE) as looking:
        assert looking.stdout
        looking.stdout.readline()
        for _ in range(50):
            with record.alone(folder):
                pass
        looking.kill()


def test_the_vendored_chart_is_the_published_one() -> None:
    import hashlib

    folder = ROOT / "lora_training" / "ui" / "vendor"
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()} == {
        # of npm's uplot-1.6.32.tgz
        "LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
        "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
        "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    }
