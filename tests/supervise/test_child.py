from __future__ import annotations

import os
import queue
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_training.launch.spec import LaunchSpec
from lora_training.supervise.attempt import Process


def spec(code: str, folder: Path) -> LaunchSpec:
    return LaunchSpec((sys.executable, "-u", "-c", code), {"GREETING": "hello"}, folder)


def run(code: str, folder: Path) -> list[str | int]:
    """All that a child says, to its exit code."""
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    Process(spec(code, folder), events)
    return said(events)


def said(events: queue.SimpleQueue[Any]) -> list[str | int]:
    found: list[str | int] = []
    while not found or isinstance(found[-1], str):
        found.append(events.get(timeout=30))
    return found


def gone(pid: int) -> bool:
    """Whether the process ends; the wait is bounded, not a sleep for luck."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or "\nState:\tZ" in status.read_text():
            return True
    return False


def test_lines_and_meters_come_through_with_the_exit_code(tmp_path: Path) -> None:
    code = "import os, sys; sys.stderr.write('1%\\r2%\\r'); print(os.environ['GREETING'], os.getcwd()); sys.exit(3)"
    assert run(code, tmp_path) == ["1%", "2%", f"hello {tmp_path}", 3]


def test_bytes_that_are_not_utf8_do_not_stop_the_reading(tmp_path: Path) -> None:
    assert run("import sys; sys.stdout.buffer.write(b'\\xff ok')", tmp_path) == ["\N{REPLACEMENT CHARACTER} ok", 0]


def test_the_child_reads_an_empty_input_and_has_a_session_of_its_own(tmp_path: Path) -> None:
    code = "import os, sys; print(repr(sys.stdin.read()), os.getsid(0) == os.getpid())"
    assert run(code, tmp_path) == ["'' True", 0]


def test_a_secret_is_given_and_not_shown(tmp_path: Path) -> None:
    started = spec("import os; print(os.environ['HF_TOKEN'])", tmp_path)
    started = replace(started, secrets={"HF_TOKEN": "hf_never-to-be-seen"})
    assert "hf_never-to-be-seen" not in started.shell() + repr(started)
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    Process(started, events)
    assert said(events) == ["hf_never-to-be-seen", 0]


def test_workers_that_outlive_a_crash_are_ended(tmp_path: Path) -> None:
    worker = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    crash = f"""
import os, subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", {worker!r}], stdout=subprocess.PIPE, text=True)
worker.stdout.readline()
print(worker.pid)
os._exit(9)
"""
    pid, code = run(crash, tmp_path)
    assert code == 9
    assert gone(int(pid))


def test_a_process_that_left_the_session_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_training.supervise.attempt._DRAIN_S", 0.2)
    stray = "import subprocess, sys; s = subprocess.Popen(['sleep', '60'], start_new_session=True); print(s.pid)"
    pid, code = run(stray, tmp_path)
    os.kill(int(pid), signal.SIGKILL)
    assert code == 0


def test_asked_it_gets_a_sigterm_and_can_answer(tmp_path: Path) -> None:
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    answer = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); print('up'); signal.pause()"
    child = Process(spec(answer, tmp_path), events)
    assert events.get(timeout=30) == "up"
    child.ask()
    assert said(events) == [143]
    child.ask()


def test_ended_it_dies_at_once_whatever_it_ignores(tmp_path: Path) -> None:
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); signal.pause(); signal.pause()"
    child = Process(spec(deaf, tmp_path), events)
    assert events.get(timeout=30) == "up"
    child.ask()
    child.end()
    assert said(events) == [-signal.SIGKILL]
