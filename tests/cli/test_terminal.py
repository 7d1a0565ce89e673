"""The display of a training on a pseudo-terminal and without one."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from contextlib import closing
from typing import IO, Any

import pytest

from lora_training.cli.output import ProgressLine
from lora_training.supervise.figures import Figures
from tests.helpers import ROOT

FOLLOW = """
import json, sys
from contextlib import closing
from lora_training.cli.terminal import Terminal
with closing(Terminal(verbose="-v" in sys.argv)) as terminal:
    terminal.event({"event": "attempt", "number": 1, "from_step": 0})
    terminal.line("[bold]upstream[/bold] says /path/with:colon")
    for event in json.loads(sys.argv[1]):
        terminal.event(event)
    terminal.note("[red]a note[/red]")
print("done")
"""


def step(number: int, **more: Any) -> dict[str, Any]:
    figures = {"epoch": 1, "avr_loss": 0.5, "lr": [1e-4, 1e-4], "seconds": 2.0, "memory_mb": 2048.0}
    return {"event": "step", "step": number, **figures, **more}


START = {"event": "start", "total_steps": 20, "epochs": 2, "initial_step": 0}
EVENTS = [START, *map(step, range(1, 21)), {"event": "checkpoint", "path": "x", "step": 20}]


def words(*events: dict[str, Any]) -> str:
    figures = Figures()
    for event in events:
        figures.take(event)
    return "  ".join(figures.words())


def follow(*options: str, stderr: int, term: str = "xterm") -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", FOLLOW, json.dumps(EVENTS), *options]
    env = os.environ | {"TERM": term, "COLUMNS": "200"}
    return subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=stderr, text=True)


def without_a_terminal(*options: str) -> str:
    out, err = (ran := follow(*options, stderr=subprocess.PIPE)).communicate(timeout=60)
    assert (ran.returncode, out) == (0, "done\n"), err
    return err


def on_a_terminal(*options: str, term: str = "xterm") -> str:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as shown, follow(*options, stderr=theirs, term=term) as ran:
        os.close(theirs)
        seen = b"".join(iter(lambda: _read(shown), b""))
        assert ran.communicate(timeout=60)[0] == "done\n"
    return seen.decode()


def _read(shown: IO[bytes]) -> bytes:
    try:
        return shown.read(65536)
    except OSError:
        # so reads a terminal whose last user has left
        return b""


def test_the_figures_of_a_step() -> None:
    assert words(START, step(1)) == ("step 1/20  0:00:38 left  loss 0.5000  2 s/step  epoch 1/2  lr 0.0001  2.0 GB")


def test_after_a_resume_only_this_attempts_steps_count() -> None:
    slow = [START, step(1, seconds=100.0), step(2, seconds=100.0)]
    resumed = [{"event": "attempt"}, START | {"initial_step": 2}, step(3, seconds=1.0), step(4, seconds=3.0)]
    assert "0:00:32 left  loss 0.5000  2 s/step" in words(*slow, *resumed)


def test_what_is_not_finite_or_not_known_is_said_so() -> None:
    said = words(START, step(1, avr_loss=None, lr=[None], memory_mb=None))
    assert "loss not finite" in said
    assert said.endswith("lr not finite")


def test_without_a_terminal_there_are_ten_plain_lines() -> None:
    said = without_a_terminal()
    assert [line.split()[1] for line in said.splitlines()[:-1]] == [f"{n}/20" for n in range(2, 21, 2)]
    assert "\x1b" not in said
    assert "upstream" not in said


def test_verbose_shows_upstreams_own_lines_as_they_are() -> None:
    assert "[bold]upstream[/bold] says /path/with:colon\n" in without_a_terminal("-v")


def test_on_a_terminal_a_line_follows_and_is_gone_at_the_end() -> None:
    seen = on_a_terminal()
    assert "loading upstream and the model" in seen
    assert "step 20/20" in seen
    assert "1 checkpoint" in seen
    assert "lora: [red]a note[/red]" in seen
    # the cursor is shown again
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")


def test_on_a_terminal_upstreams_lines_scroll_by_above() -> None:
    assert "[bold]upstream[/bold] says /path/with:colon" in on_a_terminal("-v")


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_cannot_write_over_gets_plain_lines(term: str) -> None:
    seen = on_a_terminal(term=term)
    assert "\x1b" not in seen
    assert "step 20/20" in seen


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("term", "shown"), [("xterm", "\r\x1b[Kone 5%\r\x1b[Ktwo\r\x1b[K"), ("dumb", "two\n"), ("unknown", "two\n")]
)
def test_progress_is_written_over_only_where_it_can_be(monkeypatch: pytest.MonkeyPatch, term: str, shown: str) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr("sys.stderr", screen := Screen())
    with closing(ProgressLine()) as progress:
        progress("one 5%")
        progress("two")
    assert screen.getvalue() == shown
