"""Real trainings, started, stopped, killed and continued from the page."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.cats import SMOKE, Cats
from tests.helpers import descendants, lora
from tests.ui.conftest import Server, until
from tests.ui.records import Made
from tests.ui.test_watching import shown

STEPS = 100
# of the moments at which something is killed; a new number is another course of the same test
SEED = 244557


@pytest.fixture(scope="module", autouse=True)
def configs(home: Path, sd_scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two of one training: `left` is never disturbed, `cats` is."""
    Cats(tmp_path_factory.mktemp("made"))
    text = SMOKE.read_text(encoding="utf-8").replace('"../output/smoke"', '"../out"')
    text = text.replace("max_train_steps = 20", f"max_train_steps = {STEPS}\nsave_state = true")
    text = text.replace("save_every_n_steps = 10", "save_every_n_steps = 50")
    for name in ("left", "cats"):
        own = text.replace('output_name = "smoke"', f'output_name = "{name}"')
        own = own.replace('assets = "smoke"', "retries = 0")
        (home / "configs" / f"{name}.toml").write_text(own, encoding="utf-8")


def record(home: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((home / "out" / f"{name}.run" / "run.json").read_text(encoding="utf-8")))


def started(page: Any, server: Server, name: str) -> None:
    page.goto(server.url("/configs"))
    page.locator(".tiles li", has_text=name).get_by_role("button", name="Train").click()
    page.wait_for_url("**/runs/*", timeout=120_000)


def is_said(page: Any, state: str, seconds: int = 300) -> None:
    page.locator(f"[data-part=head] .badge.{state}").wait_for(timeout=1000 * seconds)


@pytest.fixture(scope="module")
def undisturbed(home: Path, browser: Any, at_home: Server) -> dict[str, Any]:
    """The record of a run that the page starts and shows live, to its end."""
    page = browser.new_page()
    page.goto(at_home.entry)
    started(page, at_home, "left")
    is_said(page, "running")
    until(lambda: shown(page)[0] > 0, 120)
    is_said(page, "complete")
    until(lambda: shown(page) == (STEPS, STEPS))
    assert page.locator("[data-part=files] a").count() == STEPS // 50 + 1
    page.close()
    return record(home, "left")


def test_a_live_run_is_watched_to_its_end(
    page: Any, at_home: Server, undisturbed: dict[str, Any], home: Path, shoot: Callable[[Any, str], None]
) -> None:
    assert undisturbed["state"] == "complete"
    page.get_by_role("link", name="left").click()
    page.get_by_role("heading", name="Configuration").click()
    assert f"{home}/configs/left.toml:" in page.locator("tr", has_text="learning_rate").inner_text()
    shoot(page, "trained")


def lines(home: Path) -> list[str]:
    """The events of the run so far."""
    path = home / "out" / "cats.run" / "events.jsonl"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def killed(home: Path, who: str) -> str:
    """Kill `lora` or the training; the state that the page must show then."""
    pid = record(home, "cats")["pid"]
    child, *_ = until(lambda: descendants(pid))
    os.kill(pid if who == "lora" else child, signal.SIGKILL)
    if who == "lora":
        return "died"
    until(lambda: record(home, "cats")["state"] == "failed")
    return "failed"


def test_a_run_goes_on_whatever_is_killed_at_any_moment_and_ends_with_the_same_bits(
    browser: Any,
    home: Path,
    serve: Callable[..., Server],
    its_environment: dict[str, str],
    undisturbed: dict[str, Any],
) -> None:
    drawn = random.Random(SEED)
    ends = ["stop", drawn.choice(("lora", "child"))]
    drawn.shuffle(ends)
    server_dies_in = drawn.choice((0, 2))
    server = serve(env=its_environment)
    page = browser.new_page()
    page.goto(server.entry)
    started(page, server, "cats")
    begun = 0
    for number, end in enumerate((*ends, "complete")):
        if number == server_dies_in:
            server.kill()
            page.get_by_text("not connected").wait_for()
            serve(port=server.port, env=its_environment)
            page.get_by_text("not connected").wait_for(state="hidden")
        if end == "complete":
            break
        moment = begun + drawn.randint(1, 20)
        until(lambda moment=moment: len(lines(home)) >= moment, 120)
        if end == "stop":
            page.get_by_role("button", name="Stop").click()
            is_said(page, "stopped")
            # before the first step there is nothing to save
            if '"event": "stopped"' in "".join(lines(home)[begun:]):
                page.get_by_text("state saved; the same command goes on").first.wait_for()
        else:
            is_said(page, killed(home, end), 2)
        begun = len(lines(home))
        page.get_by_role("button", name="Resume").click()
        is_said(page, "running")
    is_said(page, "complete")
    until(lambda: shown(page) == (STEPS, STEPS))
    assert len(record(home, "cats")["attempts"]) == len(ends) + 1
    assert record(home, "cats")["config"] == str(home / "configs" / "cats.toml")
    origins = json.loads((home / "out" / "cats.run" / "origins.json").read_text(encoding="utf-8"))
    assert origins["learning_rate"].startswith(f"{home}/configs/cats.toml:")
    assert record(home, "cats")["result"]["tensors_sha256"] == undisturbed["result"]["tensors_sha256"]
    page.close()


def test_what_a_start_would_say_is_said_on_the_page(page: Any, at_home: Server, home: Path) -> None:
    (home / "configs" / "wrong.toml").write_text('script = "train_network"\nnetwork_dimm = 3\n', encoding="utf-8")
    page.goto(at_home.url("/configs"))
    page.locator(".tiles li", has_text="wrong").get_by_role("button", name="Train").click()
    page.locator(".toast.bad", has_text="has no flag `network_dimm`").wait_for(timeout=60_000)
    assert page.url == at_home.url("/configs")


def test_a_complete_run_says_that_there_is_nothing_to_train(
    page: Any, at_home: Server, undisturbed: dict[str, Any]
) -> None:
    page.goto(at_home.url("/configs"))
    page.locator(".tiles li", has_text="left").get_by_role("button", name="Train").click()
    page.locator(".toast", has_text="this run is complete; nothing to train").wait_for(timeout=60_000)


def test_a_rerun_that_its_record_does_not_allow_says_why(page: Any, at_home: Server, tmp_path: Path) -> None:
    run = Made(tmp_path)
    (run.folder / "config.toml").unlink()
    page.goto(at_home.url(f"/runs/{run.id}"))
    page.get_by_role("button", name="Rerun").click()
    page.get_by_role("button", name="OK").click()
    page.locator(".toast.bad", has_text="does not say enough to repeat the run").wait_for(timeout=60_000)


def test_what_is_not_running_cannot_be_stopped(at_home: Server, tmp_path: Path) -> None:
    run = Made(tmp_path)
    status, _, found = at_home.ask(f"/runs/{run.id}/stop", {})
    assert (status, found["error"]) == (409, "cats is not running")
    assert not (run.folder / "stop").exists()


def test_a_removed_run_keeps_its_lora(page: Any, at_home: Server, tmp_path: Path) -> None:
    run = Made(tmp_path)
    state, checkpoint = tmp_path / "cats-step00000010-state", tmp_path / "cats-step00000010.safetensors"
    state.mkdir()
    for path in (run.output, checkpoint, state / "train_state.json"):
        path.write_bytes(b"{}")
    page.goto(at_home.url(f"/runs/{run.id}"))
    remove = page.get_by_role("button", name="Remove")
    remove.click()
    page.get_by_role("button", name="Cancel").click()
    assert run.folder.exists()
    remove.click()
    page.get_by_role("button", name="OK").click()
    page.wait_for_url(at_home.url("/"))
    assert page.locator(f'[data-part="{run.id}"]').count() == 0
    assert sorted(tmp_path.iterdir()) == sorted((run.output, checkpoint))


def test_runs_are_compared_on_the_terminal(tmp_path: Path) -> None:
    for name, rate in (("one", 1), ("two", 2)):
        made = Made(tmp_path, name, rate=rate)
        made.begin(10)
        made.steps(1, 5)
    ran = lora("runs", "compare", "one", "two", cwd=tmp_path)
    assert [line.split() for line in ran.out.splitlines()] == [
        ["one", "two"],
        ["upstream", "6721028c79ee", "6721028c79ee"],
        ["state", "complete", "complete"],
        ["step", "5", "5"],
        ["of", "10", "10"],
        ["loss", "0.4756", "0.4756"],
        ["s/step", "0.53", "0.53"],
        ["learning_rate", "1", "2"],
        ["output_name", '"one"', '"two"'],
    ]
    found = json.loads(lora("runs", "compare", "one", "two", "--json", cwd=tmp_path).out)
    assert found["differences"] == {"learning_rate": ["1", "2"], "output_name": ['"one"', '"two"']}


def test_jobs_are_added_moved_paused_and_removed_on_the_page(
    page: Any, at_home: Server, home: Path, shoot: Callable[[Any, str], None]
) -> None:
    text = (home / "configs" / "left.toml").read_text(encoding="utf-8")
    for name in ("first", "second"):
        (home / "configs" / f"{name}.toml").write_text(text.replace('"left"', f'"{name}"'), encoding="utf-8")
        page.goto(at_home.url(f"/configs/{name}"))
        page.get_by_role("button", name="Queue").click()
        page.locator(".toast", has_text=f"-{name}: waiting").wait_for(timeout=120_000)
    page.goto(at_home.url("/queue"))
    jobs = page.locator(".jobs li")
    assert [each.locator("b").inner_text() for each in jobs.all()] == ["first", "second"]
    page.get_by_role("button", name="Move second up").click()
    until(lambda: [each.locator("b").inner_text() for each in jobs.all()] == ["second", "first"])
    jobs.first.get_by_role("button", name="Pause").click()
    jobs.first.get_by_text("paused", exact=True).wait_for()
    shoot(page, "queue")
    jobs.first.get_by_role("button", name="Continue").click()
    jobs.first.get_by_text("waiting", exact=True).wait_for()
    jobs.last.get_by_role("button", name="Remove").click()
    page.get_by_role("button", name="OK").click()
    until(lambda: jobs.count() == 1)
    assert at_home.ask("/queue/change", {"name": "no-such-job", "do": "pause"})[0] == 409
    assert at_home.ask("/queue/change", {"name": "x", "do": "format"})[0] == 400


def test_a_run_that_does_not_react_is_ended(page: Any, at_home: Server, home: Path) -> None:
    text = (home / "configs" / "left.toml").read_text(encoding="utf-8")
    endless = text.replace('"left"', '"endless"').replace(f"max_train_steps = {STEPS}", "max_train_steps = 100000")
    (home / "configs" / "endless.toml").write_text(endless, encoding="utf-8")
    started(page, at_home, "endless")
    pid = record(home, "endless")["pid"]
    child, *_ = until(lambda: descendants(pid))
    os.kill(child, signal.SIGSTOP)
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="End now").click()
    page.get_by_role("button", name="OK").click()
    is_said(page, "stopped")
    assert not Path(f"/proc/{child}").exists()
