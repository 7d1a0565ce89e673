"""A terminal that is closed, and a reader that goes away."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lora_training.supervise import record
from tests.helpers import ROOT

pytest.importorskip("torch")
pytestmark = pytest.mark.upstream
SMOKE = ROOT / "configs" / "smoke.toml"
ENDLESS = ("max_train_steps=100000", "save_every_n_steps=50000")


def command(output: Path, *sets: str) -> list[str]:
    words = [word for setting in (f"output_dir={output}", *sets) for word in ("--set", setting)]
    return [sys.executable, "-m", "lora_training", "train", str(SMOKE), *words]


def events(output: Path) -> list[dict[str, Any]]:
    path = output / "smoke.run" / "events.jsonl"
    # the last line may be half written
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def until_a_step(running: subprocess.Popen[Any], output: Path) -> None:
    while running.poll() is None:
        if any(event["event"] == "step" for event in events(output)):
            return
        # a loop without a pause takes a core from the training
        time.sleep(0.05)
    pytest.fail("the run ended before its first step")


def states(output: Path) -> list[str]:
    return [path.name for path in output.glob("*-state")]


def on_a_terminal_of_its_own(argv: list[str]) -> tuple[subprocess.Popen[bytes], int]:
    """A process whose terminal is a new one that nobody else has; closing the descriptor hangs it up."""
    ours, theirs = pty.openpty()
    # only a session leader's open takes a terminal for its own
    opening = f'exec <{os.ttyname(theirs)} >{os.ttyname(theirs)} 2>&1; exec "$@"'
    running = subprocess.Popen(["sh", "-c", opening, "sh", *argv], cwd=ROOT, start_new_session=True)
    # until it has opened it, the terminal must have a user
    os.read(ours, 1)
    os.close(theirs)
    return running, ours


def test_closing_the_terminal_saves_the_state(sd_scripts: Path, tmp_path: Path) -> None:
    running, terminal = on_a_terminal_of_its_own(command(tmp_path, *ENDLESS))
    until_a_step(running, tmp_path)
    os.close(terminal)
    assert running.wait() == 128 + signal.SIGHUP
    assert len(states(tmp_path)) == 1
    found = record.read(tmp_path / "smoke.run")
    assert found is not None
    assert found.state == "stopped"
    # what nobody could read any more
    assert ["saving the state" in event["text"] for event in events(tmp_path) if event["event"] == "note"] == [True]


def test_a_hangup_that_was_ignored_at_the_start_stays_ignored(sd_scripts: Path, tmp_path: Path) -> None:
    argv = ["nohup", *command(tmp_path)]
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    until_a_step(running, tmp_path)
    running.send_signal(signal.SIGHUP)
    assert running.wait() == 0
    assert states(tmp_path) == []


def test_a_reader_that_goes_away_does_not_end_the_training(sd_scripts: Path, tmp_path: Path) -> None:
    """All that is printed goes to a pipe that nobody reads after its first line."""
    with subprocess.Popen(command(tmp_path), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        assert running.stdout
        running.stdout.readline()
        running.stdout.close()
    assert running.returncode == 0
    assert (tmp_path / "smoke.safetensors").exists()
    assert events(tmp_path)[-1]["state"] == "complete"


@pytest.mark.parametrize("argv", [["runs", "list"], ["patch", "verify"], ["--help"]])
def test_other_commands_end_quietly_when_nobody_reads_on(argv: list[str]) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    ran = subprocess.run(
        [sys.executable, "-m", "lora_training", *argv], cwd=ROOT, stdout=writes, stderr=subprocess.PIPE, check=False
    )
    os.close(writes)
    assert ran.stderr == b""
    assert ran.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize("argv", [["runs", "list"], ["patch", "status", "--json"], ["train", str(SMOKE), "--dry-run"]])
def test_what_cannot_be_printed_on_a_full_disk_is_one_error(sd_scripts: Path, argv: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "lora_training", *argv], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, check=False
        )
    # a dry run first prints the plan on stderr
    assert ran.stderr.splitlines()[-2:] == [
        b"error: No space left on device",
        b"hint: make room there, or choose another place",
    ]
    assert ran.returncode == 1


def test_an_error_that_cannot_be_printed_keeps_its_exit_code() -> None:
    with Path("/dev/full").open("w") as full:
        argv = [sys.executable, "-m", "lora_training", "upstream", "bump", "no-such-upstream", "HEAD"]
        ran = subprocess.run(argv, cwd=ROOT, stdout=full, stderr=full, check=False)
    assert ran.returncode == 4


@pytest.mark.parametrize("command", ["config import -", "config new made --preset sdxl"])
def test_a_closed_standard_input_is_an_empty_one(tmp_path: Path, command: str) -> None:
    line = f'exec "$0" -m lora_training {command} <&-'
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = ["sh", "-c", line, sys.executable]
    ran = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.partition(":")[0]) in ((0, ""), (3, "error"))
