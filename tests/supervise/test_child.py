from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from lora_training.errors import Interrupted
from lora_training.launch.spec import LaunchSpec
from lora_training.supervise import child


def spec(code: str, folder: Path) -> LaunchSpec:
    return LaunchSpec((sys.executable, "-u", "-c", code), {"GREETING": "hello"}, folder)


def gone(pid: int) -> bool:
    """Whether the process ends; the wait is bounded, not a sleep for luck."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return True
    return False


def test_lines_and_meters_come_through_with_the_exit_code(tmp_path: Path) -> None:
    said: list[str] = []
    code = "import os, sys; sys.stderr.write('1%\\r2%\\r'); print(os.environ['GREETING'], os.getcwd()); sys.exit(3)"
    assert child.run(spec(code, tmp_path), said.append) == 3
    assert said == ["1%", "2%", f"hello {tmp_path}"]


def test_bytes_that_are_not_utf8_do_not_stop_the_reading(tmp_path: Path) -> None:
    said: list[str] = []
    assert child.run(spec("import sys; sys.stdout.buffer.write(b'\\xff ok')", tmp_path), said.append) == 0
    assert said == ["\N{REPLACEMENT CHARACTER} ok"]


def test_the_child_reads_an_empty_input_and_has_a_session_of_its_own(tmp_path: Path) -> None:
    said: list[str] = []
    child.run(spec("import os, sys; print(repr(sys.stdin.read()), os.getsid(0) == os.getpid())", tmp_path), said.append)
    assert said == ["'' True"]


def test_workers_that_outlive_a_crash_are_ended(tmp_path: Path) -> None:
    said: list[str] = []
    worker = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    crash = f"""
import os, subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", {worker!r}], stdout=subprocess.PIPE, text=True)
worker.stdout.readline()
print(worker.pid)
os._exit(9)
"""
    assert child.run(spec(crash, tmp_path), said.append) == 9
    assert gone(int(said[0]))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_us_ends_the_child_and_says_which(tmp_path: Path, signum: int) -> None:
    said: list[str] = []

    def stop_when_up(line: str) -> None:
        said.append(line)
        threading.Thread(target=os.kill, args=(os.getpid(), signum)).start()

    with pytest.raises(Interrupted) as caught:
        child.run(spec("import os, signal; print(os.getpid()); signal.pause()", tmp_path), stop_when_up)
    assert caught.value.exit_code == 128 + signum
    assert gone(int(said[0]))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
