"""`lora train --slurm` and `lora queue add --slurm` on a real Slurm of one node."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.cats import Cats
from tests.cli.cluster import PATH, PROGRAMS, Cluster
from tests.cli.test_queue import Queue
from tests.helpers import ROOT, descendants, lora

pytest.importorskip("torch")
TIMEOUT_S = 600
# so that the only state to go on from is the one that was saved when it was stopped
SHORT = ("max_train_steps=20", "save_every_n_steps=100")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    missing = [name for name in PROGRAMS if not shutil.which(name, path=PATH)]
    if missing or os.geteuid() != 0:
        pytest.skip("needs root and Debian's slurmctld, slurmd, slurm-client and munge")
    made = Cluster()
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def slurm(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("SLURM_CONF", str(cluster.config))
    return cluster


@pytest.fixture
def queue(no_upstream: Path, tmp_path: Path) -> Queue:
    return Queue(no_upstream, tmp_path)


def listed(home: Path = ROOT) -> dict[str, Any]:
    return {job["name"]: job for job in json.loads(lora("queue", "list", "--json", cwd=home).out)["jobs"]}


def until(state: str, name: str, home: Path = ROOT) -> dict[str, Any]:
    deadline = time.monotonic() + TIMEOUT_S
    while (job := listed(home)[name])["state"] != state:
        assert time.monotonic() < deadline, job
        assert job["state"] not in ("failed", "done"), job
        # each look is a process of its own, which takes a core from the training
        time.sleep(1)
    return job


def is_still(pid: int) -> bool:
    try:
        return ") T " in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False


def has_made_a_step(events: Path, starts: int) -> bool:
    """Whether the training of this start has made one."""
    begun = events.read_bytes().split(b'"event": "start"')[1:] if events.exists() else []
    return len(begun) >= starts and b'"event": "step"' in begun[-1]


@contextmanager
def held(run: Path, starts: int = 1) -> Iterator[None]:
    """Have the training stand still from its first steps until it is asked to stop, so that it is not over before.

    One that is asked before its first step saves no state.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while not has_made_a_step(run / "events.jsonl", starts):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    training = descendants(json.loads((run / "run.json").read_text(encoding="utf-8"))["pid"])
    for pid in training:
        os.kill(pid, signal.SIGSTOP)
    yield
    # Slurm itself has it go on before it is preempted or queued again
    while not (run / "stop").exists() and any(map(is_still, training)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for pid in filter(is_still, training):
        os.kill(pid, signal.SIGCONT)


def began_at(record: dict[str, Any]) -> list[int]:
    return [attempt["from_step"] for attempt in record["attempts"]]


def test_a_job_is_done_although_its_node_fails_and_it_is_queued_again(slurm: Cluster, queue: Queue) -> None:
    ran = lora("train", queue.config("cats"), "--slurm", "--partition", "main", cwd=queue.home)
    assert ran.code == 0, ran.err
    assert "cats: submitted to Slurm as job" in ran.out
    number = until("running", "cats", queue.home)["slurm"]
    slurm.ask("scontrol", "update", f"NodeName={slurm.node}", "State=DOWN", "Reason=test")
    slurm.starts_now(number)
    # refused if the node has returned by itself, as it does when its daemon reports
    slurm.ask("scontrol", "update", f"NodeName={slurm.node}", "State=RESUME", check=False)
    until("running", "cats", queue.home)
    slurm.ask("scontrol", "requeue", number)
    slurm.starts_now(number)
    until("done", "cats", queue.home)
    assert [event["state"] for event in queue.events("cats", "closed")][-1] == "complete"
    assert "Restarts=2 " in slurm.ask("scontrol", "show", "job", number)
    log = queue.out / "cats.run" / "background.log"
    assert "job 0010-cats is done" in log.read_text(encoding="utf-8")
    assert lora("runs", "list", cwd=queue.home).out.startswith("cats: complete")


def test_what_is_cancelled_is_said_and_submitted_again(slurm: Cluster, queue: Queue) -> None:
    assert queue("add", queue.config("cats"), "--slurm", "--sbatch=--hold").code == 0
    job = queue.list()[0]
    assert job["why"] == "PENDING (JobHeldUser)"
    waits = f"cats: waits in Slurm, job {job['slurm']}: PENDING (JobHeldUser), {job['output']}\n"
    assert lora("runs", "list", cwd=queue.home).out == waits
    assert "`lora queue pause 0010-cats`" in lora("runs", "stop", "cats", cwd=queue.home).err
    assert "no job waits" in queue("work").out  # it is not this machine's
    assert "scontrol" in queue("move", "cats", "--last").err
    slurm.ask("scancel", job["slurm"])
    assert "Slurm no longer has it" in queue("list").out
    assert queue("resume", "cats").code == 0
    again = queue.list()[0]
    assert again["slurm"] != job["slurm"]
    assert again["why"].startswith("PENDING")
    assert queue("pause", "cats").out.startswith("0010-cats: paused")
    assert again["slurm"] not in slurm.ask("squeue", "--noheader", "--format=%i")
    assert queue("remove", "cats").code == 0


def test_what_slurm_refuses_is_exit_4_and_nothing_is_left(slurm: Cluster, queue: Queue) -> None:
    ran = lora("train", queue.config("cats"), "--slurm", "--partition", "nowhere", cwd=queue.home)
    assert ran.code == 4
    said = "invalid partition specified: nowhere; Batch job submission failed: Invalid partition name specified"
    assert ran.err.startswith(f"error: Slurm's `sbatch` failed: {said}\nhint: `sinfo` ")
    assert ran.err.count("\n") == 2
    assert queue.list() == []
    asked = lora("train", queue.config("cats"), "--slurm", "--set", "launch.num_processes=auto", cwd=queue.home)
    assert asked.code == 3
    assert "num_processes" in asked.err


def test_without_slurm_it_is_exit_4(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    git = shutil.which("git")
    assert git
    (queue.folder / "bin").mkdir()
    (queue.folder / "bin" / "git").symlink_to(git)
    monkeypatch.setenv("PATH", str(queue.folder / "bin"))
    ran = lora("train", queue.config("cats"), "--slurm", cwd=queue.home)
    assert ran.code == 4
    assert "there is no Slurm on this machine" in ran.err
    assert lora("train", queue.config("cats"), "--partition", "x", cwd=queue.home).code == 2


@pytest.mark.upstream
def test_preempted_and_out_of_time_it_ends_with_the_bits_of_a_run_that_was_neither(
    slurm: Cluster, sd_scripts: Path, tmp_path: Path
) -> None:
    from tests.cli.test_train import weights

    (tmp_path / "alone").mkdir()
    alone = Cats(tmp_path / "alone")
    cats = Cats(tmp_path)
    ran = lora(*cats.words(*SHORT), "--slurm", cwd=ROOT)
    assert ran.code == 0, ran.err
    number = listed()["cats"]["slurm"]
    other = ("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")
    for starts, ask in enumerate((other, ("scancel", "--batch", "--signal=USR1", number)), 1):
        with held(cats.out / "cats.run", starts):
            slurm.ask(*ask)
        slurm.starts_now(number)
    until("done", "cats")
    first, second, third = began_at(cats.record("cats"))
    assert first == 0 < second < third
    assert alone.train(*SHORT).code == 0
    assert weights(cats.out / "cats.safetensors") == weights(alone.out / "cats.safetensors")


@pytest.mark.upstream
def test_two_nodes_train_together_out_of_time_and_again(slurm: Cluster, sd_scripts: Path, tmp_path: Path) -> None:
    """The end of the time limit is near: each node's supervisor saves, and both start again together."""
    cats = Cats(tmp_path)
    words = cats.words(*SHORT, "launch.num_machines=2", "launch.num_processes=2")
    ran = lora(*words, "--slurm", "--sbatch=--time=60", cwd=ROOT, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    assert ran.code == 0, ran.err
    number = listed()["cats"]["slurm"]
    with held(cats.out / "cats.run"):
        # five minutes since its start: the warning, which comes five before the end, is due when Slurm looks at limits,
        # twice a minute. With one minute, a slow machine is warned and out of time at once.
        slurm.ask("scontrol", "update", f"JobId={number}", "TimeLimit=5")
    slurm.starts_now(number, "TimeLimit=60")
    until("done", "cats")
    for name in ("cats", "cats.machine-1"):
        assert cats.record(name)["state"] == "complete"
        assert began_at(cats.record(name))[-1] > 0
