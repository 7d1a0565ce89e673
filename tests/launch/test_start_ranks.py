"""The two ways to start ranks, with scripts that take no time: who ends whom, and with what code."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from lora_training.launch.spec import Processes, build
from tests.helpers import ROOT
from tests.runtime.conftest import free_port

TIMEOUT = 60
# each rank writes one line when it is there; the pipe it leaves open tells when it is gone
HELLO = """
import json, os, signal, sys, time
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LORA_FILE_STORE")
rank = int(os.environ["RANK"])
def hello():
    line = {name: os.environ.get(name) for name in names} | {"pid": os.getpid(), "argv": sys.argv[1:]}
    os.write(1, (json.dumps(line) + "\\n").encode())
"""
STAYS = HELLO + "hello()\ntime.sleep(600)\n"
LEAVES = HELLO + "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\nhello()\ntime.sleep(600)\n"
FAILS = HELLO + "hello()\nsys.exit(3 if rank else 0)\n"
ENDS = HELLO + "hello()\n"


class Started:
    """Two ranks and what started them, in a session of their own; their stdout is one pipe."""

    def __init__(self, folder: Path, text: str, *, file_store: bool) -> None:
        (folder / "script.py").write_text(text, encoding="utf-8")
        processes = Processes(2, cpu=True, file_store=file_store, port=None if file_store else free_port())
        spec = build(
            sys.executable, folder / "script.py", ["--a", "b"], processes=processes, runtime={}, mixed_precision="no"
        )
        self.process = subprocess.Popen(
            spec.argv,
            cwd=spec.cwd,
            env=os.environ | dict(spec.env) | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self.process.stdout
        self._pipe = self.process.stdout

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._pipe.close()

    def said(self) -> list[dict[str, object]]:
        """What both said, by rank, once both have."""
        lines = [json.loads(self._pipe.readline()) for _ in range(2)]
        return sorted(lines, key=lambda line: str(line["RANK"]))

    def all_gone(self) -> bool:
        """Whether nobody holds the pipe any more, within the time that there is."""
        ready, _, _ = select.select([self._pipe], [], [], TIMEOUT)
        return bool(ready) and self._pipe.read() == b""


Start = Callable[..., Started]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as open_ones:
        yield lambda text, *, file_store: open_ones.enter_context(
            closing(Started(tmp_path, text, file_store=file_store))
        )


def test_each_rank_knows_its_place_and_where_they_meet(start: Start) -> None:
    started = start(ENDS, file_store=True)
    first, second = started.said()
    assert started.process.wait(TIMEOUT) == 0
    assert [first["RANK"], second["LOCAL_RANK"], first["WORLD_SIZE"], second["LOCAL_WORLD_SIZE"]] == [
        "0",
        "1",
        "2",
        "2",
    ]
    assert first["argv"] == second["argv"] == ["--a", "b"]
    assert first["LORA_FILE_STORE"] == second["LORA_FILE_STORE"]
    assert not Path(str(first["LORA_FILE_STORE"])).parent.exists()


def test_a_ranks_error_is_the_code_of_all(start: Start) -> None:
    assert start(FAILS, file_store=True).process.wait(TIMEOUT) == 3


def test_sigterm_is_passed_on_and_their_code_comes_back(start: Start) -> None:
    started = start(LEAVES, file_store=True)
    started.said()
    started.process.terminate()
    assert started.process.wait(TIMEOUT) == 143
    assert started.all_gone()


@pytest.mark.parametrize("file_store", [True, False])
def test_a_rank_killed_ends_all(start: Start, file_store: bool) -> None:
    started = start(STAYS, file_store=file_store)
    _, second = started.said()
    os.kill(int(str(second["pid"])), signal.SIGKILL)
    # accelerate's launcher reports every death of a rank as 1
    assert started.process.wait(TIMEOUT) == (-signal.SIGKILL if file_store else 1)
    assert started.all_gone()


@pytest.mark.parametrize("file_store", [True, False])
def test_no_rank_outlives_what_started_it(start: Start, file_store: bool) -> None:
    started = start(STAYS, file_store=file_store)
    started.said()
    started.process.kill()
    assert started.all_gone()
