"""`lora runs log`: the logs of a run's attempts."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lora_training import cli, workspace
from lora_training.supervise import record
from tests.cli.test_runs import keep
from tests.helpers import ROOT


def attempts(folder: Path, *texts: str, state: str) -> None:
    """Add the logs of attempts to the record in `folder`."""
    logs = [folder / f"attempt-{number}.log" for number in range(1, len(texts) + 1)]
    for log, text in zip(logs, texts, strict=True):
        log.write_text(text)
    run = record.read(folder)
    assert run
    replace(run, state=state, attempts=[{"log": str(log), "from_step": 0} for log in logs]).save(folder)


def test_it_follows_from_one_attempt_to_the_next_and_ends_with_the_run(here: workspace.Workspace) -> None:
    folder = keep(here, "out")
    attempts(folder, "one\n", state="running")
    with record.alone(folder):
        argv = [sys.executable, "-m", "lora_training", "runs", "log", "a", "-f"]
        running = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert running.stdout
        assert running.stdout.readline() == "one\n"
        with (folder / "attempt-1.log").open("a") as log:
            log.write("two\nhalf a li")
            log.flush()
            assert running.stdout.readline() == "two\n"
            log.write("ne\n")
        attempts(folder, "one\ntwo\nhalf a line\n", "three\n", state="running")
        assert [running.stdout.readline() for _ in range(2)] == ["half a line\n", "three\n"]
        attempts(folder, "one\ntwo\nhalf a line\n", "three\nfour", state="failed")
    out, err = running.communicate()
    assert (out, running.returncode) == ("four", 0)
    assert err == "".join(f"log       {folder}/attempt-{number}.log\n" for number in (1, 2)) + "a: failed\n"


def test_of_a_run_that_has_ended_the_newest_attempt_is_printed(
    here: workspace.Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = keep(here, "out")
    attempts(folder, "one\n", "two\n", state="complete")
    for more in ([], ["-f"]):
        assert cli.run(["runs", "log", "a", *more]) == 0
        assert capsys.readouterr().out == "two\n"
    assert cli.run(["runs", "log", "a", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["logs"] == [str(folder / f"attempt-{number}.log") for number in (1, 2)]


def test_a_run_without_a_log(here: workspace.Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    folder = keep(here, "out")
    assert cli.run(["runs", "log", "a"]) == 1
    assert capsys.readouterr().err == f"error: a has no log yet\nhint: its other files are in {folder}\n"


def test_a_record_cannot_name_a_log_elsewhere(here: workspace.Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    folder = keep(here, "out")
    secret = here.root / "secret"
    secret.write_text("secret\n")
    attempts(folder, state="complete")
    run = record.read(folder)
    assert run
    replace(run, attempts=[{"log": str(secret), "from_step": 0}]).save(folder)
    assert cli.run(["runs", "log", "a"]) == 1
    assert capsys.readouterr().out == ""
