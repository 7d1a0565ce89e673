"""`lora train` in two processes on the real upstream, on the CPU with gloo: on one machine, and on two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lora_training.workspace import Workspace
from tests.helpers import ROOT
from tests.runtime.conftest import free_port

pytestmark = pytest.mark.upstream

TIMEOUT = 240
STEPS = 8
SETS = (
    "launch.num_processes=2",
    "launch.distributed_backend=gloo",
    f"max_train_steps={STEPS}",
    "save_every_n_steps=2",
    "save_state=true",
    "network_module=tests.launch.probe",
)


@contextmanager
def training(folder: Path, backend: str) -> Iterator[subprocess.Popen[str]]:
    sets = [word for each in (*SETS, f"launch.backend={backend}", f"output_dir={folder}") for word in ("--set", each)]
    argv = [sys.executable, "-m", "lora_training", "train", str(ROOT / "configs" / "smoke.toml"), "-v", *sets]
    # a machine with GPUs trains on its CPU here, too
    env = os.environ | {"TEST_PROBE": str(folder), "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    folder.mkdir(exist_ok=True)
    with subprocess.Popen(
        argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def ended(started: subprocess.Popen[str]) -> str:
    out, _ = started.communicate(timeout=TIMEOUT)
    assert started.returncode == 0, out[-4000:]
    return out


def assert_trained_together(folder: Path) -> None:
    """The ranks saw different data, each step's gradient was the mean of theirs, and they end with the same weights."""
    import torch

    first, second = (torch.load(folder / f"rank-{rank}.pt") for rank in (0, 1))
    assert first["latents"]
    assert not any(map(torch.equal, first["latents"], second["latents"]))
    assert first["own"]
    assert any(not torch.equal(*pair) for pair in zip(first["own"], second["own"], strict=True))
    for one, other, *means in zip(first["own"], second["own"], first["mean"], second["mean"], strict=True):
        assert all(torch.equal(mean, (one + other) / 2) for mean in means)
    assert all(map(torch.equal, first["weights"], second["weights"]))


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return {name: value.tobytes() for name, value in load_file(folder / "smoke.safetensors").items()}


@pytest.fixture(scope="module")
def whole(sd_scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes trained, started by accelerate and never interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "accelerate"
    with training(folder, "accelerate") as started:
        assert f"steps     {STEPS}" in ended(started)
    return folder


def test_two_that_accelerate_started_train_together(whole: Path) -> None:
    assert_trained_together(whole)


def test_a_rank_killed_ends_both_and_what_is_started_again_ends_with_the_same_bits(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "filestore"
    with training(folder, "filestore") as started:
        first_state(started, folder)
        os.kill(rank_of(started.pid, "1"), signal.SIGKILL)
        out = ended(started)
    assert "starting again from step" in out
    record = json.loads((folder / "smoke.run" / "run.json").read_text(encoding="utf-8"))
    assert [attempt["code"] for attempt in record["attempts"]] == [-signal.SIGKILL, 0]
    assert_trained_together(folder)
    assert tensors(folder) == tensors(whole)


def test_stopped_and_with_a_rank_killed_under_accelerate_it_ends_with_the_same_bits(
    whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "accelerate"
    with training(folder, "accelerate") as started:
        first_state(started, folder)
        started.send_signal(signal.SIGTERM)
        out, _ = started.communicate(timeout=TIMEOUT)
    assert started.returncode == 128 + signal.SIGTERM, out
    assert "the same command goes on" in out
    with training(folder, "accelerate") as started:
        began(started, folder, times=2)
        os.kill(rank_of(started.pid, "1"), signal.SIGKILL)
        out = ended(started)
    assert "most likely the system when memory ran out" in out
    assert tensors(folder) == tensors(whole)
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}


def is_listening(port: int) -> bool:
    tables = (Path("/proc/net", name).read_text(encoding="ascii").splitlines()[1:] for name in ("tcp", "tcp6"))
    rows = (line.split() for table in tables for line in table)
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


@contextmanager
def machines(folder: Path, rendezvous: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Two machines of one process each, with homes and lists of runs of their own; they share the folder alone."""
    port = free_port()
    started = []
    for rank in (0, 1):
        home = folder.parent / f"home-{rank}"
        home.mkdir(exist_ok=True)
        launch = {"num_machines": 2, "machine_rank": rank, "main_process_ip": "127.0.0.1", "main_process_port": port}
        launch["rdzv_backend"] = rendezvous
        sets = (*SETS, *(f"launch.{key}={value}" for key, value in launch.items()), f"output_dir={folder}")
        argv = [sys.executable, "-m", "lora_training", "train", str(ROOT / "configs" / "smoke.toml")]
        argv += [word for each in sets for word in ("--set", each)]
        env = os.environ | {"TEST_PROBE": str(folder), "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
        env |= {"LORA_CACHE": str(Workspace(ROOT).cache), "HOME": str(home), "LORA_RUNS": str(home / "runs")}
        with (home / "said").open("a") as said:
            started.append(subprocess.Popen(argv, cwd=ROOT, env=env, stdout=said, stderr=said, text=True))
        # on two real machines, the other could not take this port
        while not is_listening(port) and started[0].poll() is None:
            time.sleep(0.1)
    try:
        yield started
    finally:
        for each in started:
            each.kill()
            each.wait()


def test_a_machine_killed_is_named_by_the_other_and_both_end_with_the_bits_of_one_machine(
    whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    with machines(folder, "static") as (first, second):
        while not (folder / "smoke-step00000002-state").exists():
            assert first.poll() is None, (tmp_path / "home-0" / "said").read_text(encoding="utf-8")
        second.kill()
        assert first.wait(60) == 6
    assert "error: machine 1" in (tmp_path / "home-0" / "said").read_text(encoding="utf-8")
    with machines(folder, "c10d") as both:
        codes = [each.wait(TIMEOUT) for each in both]
    assert codes == [0, 0], [(tmp_path / f"home-{rank}" / "said").read_text(encoding="utf-8") for rank in (0, 1)]
    assert tensors(folder) == tensors(whole)
    for name in ("smoke.run", "smoke.machine-1.run"):
        record = json.loads((folder / name / "run.json").read_text(encoding="utf-8"))
        assert record["state"] == "complete"
        assert record["attempts"][-1]["from_step"] >= 2


def first_state(started: subprocess.Popen[str], folder: Path) -> None:
    assert started.stdout
    # the line comes when a state has been saved; its folder is whole by the time that the next step is over
    while not (folder / "smoke-step00000002-state").exists():
        assert started.stdout.readline(), "it ended before the first state"


def began(started: subprocess.Popen[str], folder: Path, times: int) -> None:
    """Return when the run has begun that many attempts."""
    events = folder / "smoke.run" / "events.jsonl"
    while events.read_text(encoding="utf-8").count('"start"') < times:
        assert started.poll() is None, "it ended before it began"


def rank_of(supervisor: int, rank: str) -> int:
    """The process id of that rank among all that work for `supervisor`."""
    wanted = {f"RANK={rank}", f"LORA_SUPERVISOR={supervisor}"}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environ = (entry / "environ").read_text(encoding="utf-8", errors="replace").split("\0")
        except OSError:
            continue
        if wanted <= set(environ):
            return int(entry.name)
    raise AssertionError(wanted)
