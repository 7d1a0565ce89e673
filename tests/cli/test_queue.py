"""`lora queue`: jobs that are checked when they are added, trained in order, never twice and never lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_training.supervise import jobs
from tests.helpers import ROOT, Ran, descendants, lora, write

pytest.importorskip("torch")
SMOKE = ROOT / "configs" / "smoke.toml"


class Queue:
    """The queue of a checkout without upstream, whose jobs train the miniature for two steps."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.home, self.folder, self.out = home, folder, folder / "out"

    def config(self, name: str, **replaced: str) -> Path:
        text = SMOKE.read_text(encoding="utf-8").replace("max_train_steps = 20", "max_train_steps = 2")
        for before, after in {"smoke": name, "../output/smoke": str(self.out), **replaced}.items():
            text = (
                text.replace(f'"{before}"', f'"{after}"')
                if before != "smoke"
                else text.replace('output_name = "smoke"', f'output_name = "{name}"')
            )
        (self.folder / f"{name}.toml").write_text(text, encoding="utf-8")
        return self.folder / f"{name}.toml"

    def __call__(self, *args: str | Path) -> Ran:
        return lora("queue", *args, cwd=self.home)

    def add(self, *names: str) -> Ran:
        ran = self("add", *(self.config(name) for name in names))
        assert ran.code == 0, ran.err
        return ran

    def list(self) -> list[dict[str, Any]]:
        return list(json.loads(self("list", "--json").out)["jobs"])

    def states(self) -> dict[str, str]:
        return {job["name"]: job["state"] for job in self.list()}

    def worker(self, *args: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "lora_training", "queue", "work", *args]
        return subprocess.Popen(argv, cwd=self.home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def events(self, name: str, kind: str) -> list[dict[str, Any]]:
        lines = (self.out / f"{name}.run" / "events.jsonl").read_text(encoding="utf-8").splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == kind]


@pytest.fixture
def queue(no_upstream: Path, tmp_path: Path) -> Queue:
    return Queue(no_upstream, tmp_path)


def test_what_is_wrong_is_said_when_it_is_added_and_then_nothing_is(queue: Queue) -> None:
    wrong = queue.config("wrong", AdamW="AdamX")
    wrong.write_text(wrong.read_text(encoding="utf-8").replace("[run]", "[run]\nretrys = 1"), encoding="utf-8")
    ran = queue("add", queue.config("right"), wrong)
    assert ran.code == 3
    assert "retrys" in ran.err
    assert queue.list() == []


def test_a_job_is_a_file_with_its_whole_configuration(queue: Queue) -> None:
    added = queue("add", queue.config("cats"), "--set", "network_dim=8", "--json")
    job = json.loads(added.out)["jobs"][0]
    config = Path(job["config"])
    queue.config("cats").unlink()
    assert lora("config", "check", "--quick", config, cwd=queue.home).code in (0, 4)
    assert "network_dim = 8" in config.read_text(encoding="utf-8")
    assert job["output"] == str(queue.out / "cats.safetensors")


def test_two_jobs_never_train_the_same_lora(queue: Queue) -> None:
    queue.add("cats")
    ran = queue("add", queue.config("dogs"), queue.config("cats"))
    assert ran.code == 3
    assert "0010-cats trains" in ran.err
    assert queue("add", queue.config("dogs"), queue.config("dogs")).code == 3
    assert list(queue.states()) == ["cats"]


def test_jobs_are_moved_paused_and_removed(queue: Queue) -> None:
    queue.add("a", "b", "c")
    assert queue("move", "c", "--before", "a").code == 0
    assert queue("move", "a", "--last").code == 0
    assert [job["id"] for job in queue.list()] == ["0005-c", "0020-b", "0030-a"]
    assert queue("pause", "b").code == 0
    assert queue("remove", "0005-c").out == "0005-c: removed\n"
    assert queue.states() == {"b": "paused", "a": "waiting"}
    assert queue("pause").out.startswith("0030-a: paused")
    assert queue("work", "--gpus", "0,1").out.startswith("no job waits for a worker; ")
    assert "there is no GPU x" in queue("work", "--gpus", "0,x").err
    assert "it names no GPU" in queue("work", "--gpus", "").err
    assert queue("resume", "b").code == 0
    assert queue.states() == {"b": "waiting", "a": "paused"}
    assert queue("remove", "--done").out == "no job is done\n"
    assert "before itself" in queue("move", "a", "--before", "a").err
    missing = queue("remove", "x")
    assert missing.code == 1
    assert "jobs: 0020-b, 0030-a" in missing.err


# of the moments at which a worker is killed; a new number is another course of the same test
SEED = 16


def test_ten_jobs_with_a_broken_one_and_workers_that_are_killed(queue: Queue) -> None:
    """Each good job is done once, with the bits that it has alone; the broken one is set aside with its sentence."""
    from tests.cli.test_train import weights

    good = [f"good-{number}" for number in range(9)]
    queue.add(*good[:4])
    shutil.copytree(Path(os.environ["LORA_CACHE"]) / "smoke" / "images", queue.folder / "images")
    broken = queue.config("broken", **{"${LORA_CACHE}/smoke/images": str(queue.folder / "images")})
    assert queue("add", broken).code == 0
    queue.add(*good[4:])
    next((queue.folder / "images").glob("*.png")).write_bytes(b"not a picture any more")
    chance = random.Random(SEED)
    for is_whole_machine in (False, True):
        with queue.worker() as worker:
            assert worker.stderr
            for _ in range(chance.randint(1, 40)):
                worker.stderr.readline()
            for pid in (*(descendants(worker.pid) if is_whole_machine else ()), worker.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert worker.wait() == -signal.SIGKILL
    with queue.worker() as last:
        said = last.communicate()[1]
    assert last.returncode == (6 if "0050-broken failed" in said else 0), said
    assert queue.states() == {**dict.fromkeys(good, "done"), "broken": "failed"}
    why = next(job["why"] for job in queue.list() if job["name"] == "broken")
    assert "images" in why
    alone = lora("train", queue.config("alone"), cwd=queue.home)
    assert alone.code == 0, alone.err
    for name in good:
        assert [event["state"] for event in queue.events(name, "closed")] == ["complete"]
        assert weights(queue.out / f"{name}.safetensors") == weights(queue.out / "alone.safetensors")


def test_an_interrupted_job_is_the_first_and_a_held_one_is_left_alone(queue: Queue) -> None:
    queue.add("first", "later", "held")
    place = Path(os.environ["LORA_RUNS"]) / "queue"
    jobs.find(place, "later").save(state="running")
    held = jobs.find(place, "held").save(state="running")
    from lora_training.supervise import record

    with record.alone(held.folder):
        assert queue.states() == {"first": "waiting", "later": "interrupted", "held": "running"}
        assert "is being trained" in queue("remove", "held").err
        assert "held is being checked" in queue("pause", "held").err
        with queue.worker() as worker:
            assert worker.stderr
            assert "job 0020-later" in worker.stderr.readline()
            worker.send_signal(signal.SIGKILL)
    assert queue.states()["later"] == "interrupted"


def test_a_worker_of_named_jobs_goes_on_when_one_is_removed_and_added_again(queue: Queue) -> None:
    images = queue.folder / "images"
    shutil.copytree(Path(os.environ["LORA_CACHE"]) / "smoke" / "images", images)
    config = queue.config("again", **{"${LORA_CACHE}/smoke/images": str(images)})
    assert queue("add", config).code == 0
    picture = next(images.glob("*.png"))
    picture.rename(picture.with_suffix(".aside"))
    picture.write_bytes(b"not a picture any more")
    with queue.worker("again", "--wait") as worker:
        assert worker.stderr
        assert any("job 0010-again failed" in line for line in worker.stderr)
        picture.with_suffix(".aside").replace(picture)
        assert queue("remove", "again").code == 0
        assert queue("add", config).code == 0
        assert any("job 0010-again: " in line for line in worker.stderr)
        worker.kill()


def test_a_folder_without_a_sound_job_is_left_out(tmp_path: Path) -> None:
    good: dict[str, Any] = {"source": "cats.toml", "output": "/out/cats.safetensors", "added": 1}
    odd = [{"added": "today"}, {"added": 1e300}, {"sbatch": 3}, {"state": None}, {"source": ["x"]}]
    for number, document in enumerate([[], {}, *({**good, **each} for each in odd), good]):
        write(tmp_path, {f"{number}-cats/job.json": json.dumps(document)})
    assert [job.folder.name for job in jobs.read(tmp_path)] == ["7-cats"]


@given(st.lists(st.integers(min_value=0, max_value=100), max_size=40))
def test_there_is_always_a_number_between_two_others(places: list[int]) -> None:
    numbers = ["0", "99999"]
    for place in places:
        low = place % (len(numbers) - 1)
        numbers.insert(low + 1, jobs.between(numbers[low], numbers[low + 1]))
    names = [f"{number}-x" for number in numbers[1:-1]]
    assert names == sorted(set(names))
