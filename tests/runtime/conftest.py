"""Trainings of the smoke model on the real upstream, each in a process of its own, forked from one that is warm."""

from __future__ import annotations

import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lora_training import proc, workspace
from lora_training.config import schema as schemas
from lora_training.config.argv import dataset_document, dataset_text, to_argv
from lora_training.config.loading import load
from lora_training.launch import spec
from lora_training.runtime import bootstrap
from tests.helpers import ROOT

SMOKE = ROOT / "configs" / "smoke.toml"
TIMEOUT = 120
CACHED = ("cache_latents=true", "cache_latents_to_disk=true")
TINY = {"tiny-unet": {"block_out_channels": [32, 64, 64, 64]}}


@dataclass
class Training:
    """One training process, running or ended."""

    folder: Path
    pid: int
    log_file: Path
    ends: queue.SimpleQueue[int] = field(repr=False)

    def wait(self) -> int:
        self.code = self.ends.get(timeout=TIMEOUT)
        return self.code

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    @property
    def events(self) -> list[dict[str, Any]]:
        file = self.folder / "events.jsonl"
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    def weights(self, name: str = "smoke.safetensors") -> dict[str, Any]:
        from safetensors.torch import load_file

        return load_file(self.folder / name)


class Trainer:
    """Starts trainings; see `zygote`."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._here = workspace.Workspace(ROOT)
        self._ends: dict[int, queue.SimpleQueue[int]] = {}
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.runtime.zygote", str(tree)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        assert self._answers.get(timeout=TIMEOUT)["ready"]

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            answer = json.loads(line)
            if "ended" in answer:
                self._ends[answer["ended"]].put(answer["code"])
            else:
                if "pid" in answer:
                    self._ends[answer["pid"]] = queue.SimpleQueue()
                self._answers.put(answer)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(TIMEOUT)

    def start(
        self,
        folder: Path,
        *sets: str,
        runtime: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        datasets: list[dict[str, Any]] | None = None,
        log: str = "log.txt",
        script: str | None = None,
    ) -> Training:
        """A training of the smoke run's configuration, with these changes, its output in `folder`.

        `script` is the text of a script of our own, to run in place of upstream's with the same flags.
        """
        folder.mkdir(parents=True, exist_ok=True)
        sets = (f"output_dir={folder}", "max_train_steps=6", "save_every_n_steps=100", *sets)
        launched = self._spec(folder, sets, dict(TINY) | dict(runtime or {}), datasets)
        given = {**launched.env, "LORA_EVENTS": str(folder / "events.jsonl"), **(env or {})}
        argv = launched.argv[len(proc.module("lora_training.runtime")) :]
        if script:
            (folder / "script.py").write_text(script, encoding="utf-8")
            argv = (str(folder / "script.py"), *argv[1:])
        return self._fork(folder, argv, given, folder / log)

    def script(self, folder: Path, text: str, *flags: str, runtime: Mapping[str, Any]) -> Training:
        """A script of our own, run to its end in place of upstream's."""
        (folder / "script.py").write_text(text, encoding="utf-8")
        argv = (str(folder / "script.py"), *flags)
        training = self._fork(folder, argv, bootstrap.environment(runtime), folder / "log.txt")
        training.wait()
        return training

    def _fork(self, folder: Path, argv: tuple[str, ...], env: Mapping[str, str], log: Path) -> Training:
        request = {"argv": argv, "env": env, "cwd": str(self._tree), "log": str(log)}
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        pid = self._answers.get(timeout=TIMEOUT)["pid"]
        return Training(folder, pid, log, self._ends[pid])

    def __call__(self, folder: Path, *sets: str, **more: Any) -> Training:
        """The same, run to its end."""
        training = self.start(folder, *sets, **more)
        training.wait()
        return training

    def _spec(
        self, folder: Path, sets: tuple[str, ...], runtime: Mapping[str, Any], datasets: list[dict[str, Any]] | None
    ) -> spec.LaunchSpec:
        # a flag that `lora train` sets itself
        resumed = [f"--{each}" for each in sets if each.startswith("resume=")]
        sets = tuple(each for each in sets if not each.startswith("resume="))
        config = load(SMOKE, sets=sets, environ={workspace.CACHE_VARIABLE: str(self._here.cache)})
        schema = schemas.read(self._tree, config.script, cache=self._here.cache)
        document = {"datasets": datasets} if datasets else dataset_document(config)
        (folder / "dataset.json").write_text(dataset_text(document) if document else "", encoding="utf-8")
        flags = [*to_argv(config, schema), *resumed, "--dataset_config", str(folder / "dataset.json")]
        return spec.build(
            sys.executable,
            self._tree / f"{config.script}.py",
            flags,
            runtime=bootstrap.environment(runtime),
            mixed_precision=str(config.values.get("mixed_precision", "no")),
        )


def start_ranks(
    train: Trainer, folder: Path, count: int, *sets: str, env: Mapping[str, str] | None = None, **more: Any
) -> list[Training]:
    """So many processes that train together, on the CPU; their events come in one file."""
    env = {
        **(env or {}),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "ACCELERATE_USE_CPU": "1",
    }
    env |= {"MASTER_PORT": str(free_port()), "LORA_EVENTS": str(folder / "events.jsonl")}
    started = []
    for rank in range(count):
        own = env | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        started.append(train.start(folder, *sets, log=f"log-{rank}.txt", env=own, **more))
    return started


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def copied_images(folder: Path) -> Path:
    """The smoke run's images, in a folder whose caches are its own."""
    shutil.copytree(smoke_images(), folder)
    for cache in folder.glob("*.npz"):
        cache.unlink()
    return folder


def dataset(*folders: Path, **more: Any) -> list[dict[str, Any]]:
    """One dataset as the smoke run has it, a subset for each folder."""
    subsets = [{"image_dir": str(folder), "caption_extension": ".txt", "num_repeats": 2} for folder in folders]
    return [{"resolution": [64, 64], "batch_size": 2, "subsets": subsets, **more}]


def smoke_images() -> Path:
    return workspace.Workspace(ROOT).cache / "smoke" / "images"


@pytest.fixture(scope="session")
def train(sd_scripts: Path) -> Iterator[Trainer]:
    pytest.importorskip("torch")
    if not smoke_images().exists():
        folder = smoke_images().parent
        subprocess.run([sys.executable, "-m", "lora_training.smoke.make", str(folder)], cwd=ROOT, check=True)
    trainer = Trainer(sd_scripts)
    yield trainer
    trainer.close()


@pytest.fixture(scope="session")
def plain(train: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Six steps with only the patches that the smoke model needs, for comparison."""
    training = train(tmp_path_factory.mktemp("plain"))
    assert training.code == 0, training.log
    return training


def same(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Whether two sets of weights are the same, bit for bit."""
    return left.keys() == right.keys() and all(
        left[name].numpy().tobytes() == right[name].numpy().tobytes() for name in left
    )


def poison(cache: Path) -> None:
    """Make an image's cached latents NaN: as a VAE in half precision does to some."""
    import numpy as np

    held = dict(np.load(cache))
    np.savez(cache, **{name: value * np.nan if name.startswith("latents") else value for name, value in held.items()})


def finite(weights: dict[str, Any]) -> bool:
    return all(bool(value.isfinite().all()) for value in weights.values())


@pytest.fixture(scope="session")
def poisoned(train: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with cached latents, those of one of them NaN."""
    folder = tmp_path_factory.mktemp("poisoned")
    made = train(folder / "out", "max_train_steps=1", *CACHED, datasets=dataset(copied_images(folder / "images")))
    assert made.code == 0, made.log
    poison(min((folder / "images").glob("*.npz")))
    return folder / "images"
