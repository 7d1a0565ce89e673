"""`lora train --detach`: checked here, trained in the background."""

from __future__ import annotations

import json
import os
import select
from pathlib import Path

import pytest

from lora_training.supervise import record
from tests.helpers import ROOT, lora

pytest.importorskip("torch")
SMOKE = ROOT / "configs" / "smoke.toml"


def test_it_returns_at_once_and_the_run_goes_on_in_a_session_of_its_own(no_upstream: Path, tmp_path: Path) -> None:
    # the pipes of this call end with it, so nothing of the terminal is left open
    started = lora("train", SMOKE, "--detach", "--set", f"output_dir={tmp_path / 'out'}", cwd=no_upstream)
    assert started.code == 0, started.err
    assert "lora runs stop smoke" in started.out
    folder = tmp_path / "out" / "smoke.run"
    known = record.read(folder)
    assert known
    assert (record.is_alive(folder), os.getsid(known.pid)) == (True, known.pid)
    shown = lora("runs", "list", cwd=no_upstream)
    assert shown.out.startswith("smoke: running")
    # until the run ends
    followed = lora("runs", "log", "smoke", "--follow", cwd=no_upstream)
    assert (followed.code, followed.out) == (0, (folder / "attempt-1.log").read_text(encoding="utf-8"))
    assert "smoke: complete" in followed.err
    wait_for_its_end(known.pid)
    ended = record.read(folder)
    assert ended
    assert ended.state == "complete"
    log = (folder / "background.log").read_text(encoding="utf-8")
    assert f"trained   {tmp_path / 'out' / 'smoke.safetensors'}" in log
    # where its folder is moved to, the same training finds it complete, and lists it
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    again = lora("train", SMOKE, "--set", f"output_dir={moved}", cwd=no_upstream)
    assert (again.code, "this run is complete" in again.out + again.err) == (0, True)
    shown = lora("runs", "show", "smoke", "--json", cwd=no_upstream)
    assert (json.loads(shown.out)["folder"], shown.err) == (str(moved / "smoke.run"), "")


def test_what_is_wrong_is_said_before_it_leaves(no_upstream: Path, tmp_path: Path) -> None:
    sets = ("--set", f"output_dir={tmp_path}")
    ran = lora("train", SMOKE, "--detach", *sets, "--set", "launch.num_processes=none", cwd=no_upstream)
    assert ran.code == 3
    assert "num_processes" in ran.err
    assert not (tmp_path / "smoke.run").exists()


def test_of_two_starts_at_the_same_moment_the_second_does_not_make_the_tiny_model(
    no_upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_CACHE", str(tmp_path / "cache"))
    with record.alone(tmp_path / "smoke.run"):
        ran = lora("train", SMOKE, "--set", f"output_dir={tmp_path}", cwd=no_upstream)
    assert (ran.code, ran.err.count("another run is at work")) == (3, 1)
    assert not (tmp_path / "cache" / "smoke").exists()


def wait_for_its_end(pid: int) -> None:
    """Wait for a process that is no child of this one."""
    select.select([os.pidfd_open(pid)], [], [])
