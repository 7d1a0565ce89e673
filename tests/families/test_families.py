"""Every family through the command line, each with the tiny model of its smoke configuration."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.helpers import ROOT, Ran, lora

pytestmark = pytest.mark.upstream
STEPS = 10


@dataclass(frozen=True)
class Trained:
    """A finished run of a smoke configuration."""

    ran: Ran
    lora: Path

    @property
    def record(self) -> Path:
        return self.lora.with_suffix(".run")

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = (self.record / "events.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    @property
    def modules(self) -> set[str]:
        from safetensors import safe_open

        with safe_open(self.lora, "pt") as file:
            return {key.partition(".")[0] for key in file.keys()}  # noqa: SIM118 - it is no mapping


@pytest.fixture(scope="module")
def env(cache: Path) -> dict[str, str]:
    return {**os.environ, "LORA_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="class")
def whole(request: pytest.FixtureRequest, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The smoke run of the class's family."""
    name, folder = request.cls.name, tmp_path_factory.mktemp(request.cls.name)
    ran = lora("train", ROOT / f"configs/smoke/{name}.toml", "--set", f"output_dir={folder}", cwd=ROOT, env=env)
    return Trained(ran, folder / f"smoke-{name}.safetensors")


class Family:
    """The tests of one family. `modules`: how many its LoRA has, by the part of the model."""

    name: ClassVar[str]
    modules: ClassVar[dict[str, int]]

    def test_its_smoke_run_ends_with_a_checked_lora_of_these_parts(self, whole: Trained) -> None:
        assert whole.ran.code == 0, whole.ran.err
        assert f"steps     {STEPS}" in whole.ran.out
        steps = [event["step"] for event in whole.events if event["event"] == "step"]
        assert steps == list(range(1, STEPS + 1))
        assert Counter("_".join(key.split("_")[:2]) for key in whole.modules) == self.modules


class TestSd2(Family):
    name = "sd2"
    modules: ClassVar = {"lora_unet": 192, "lora_te": 72}


class TestSdxl(Family):
    name = "sdxl"
    modules: ClassVar = {"lora_unet": 132, "lora_te1": 72, "lora_te2": 72}


class TestFlux(Family):
    name = "flux"
    modules: ClassVar = {"lora_unet": 32, "lora_te1": 72}


class TestFluxSchnell(Family):
    name = "flux-schnell"
    modules: ClassVar = {"lora_unet": 32, "lora_te1": 72}


class TestChroma(Family):
    name = "chroma"
    modules: ClassVar = {"lora_unet": 24}


class TestSd3(Family):
    name = "sd3"
    modules: ClassVar = {"lora_unet": 41, "lora_te1": 72, "lora_te2": 72}


class TestAnima(Family):
    name = "anima"
    modules: ClassVar = {"lora_unet": 40, "lora_te": 14}


class TestLumina(Family):
    name = "lumina"
    modules: ClassVar = {"lora_unet": 48, "lora_te": 14}


class TestHunyuanImage(Family):
    name = "hunyuan-image"
    modules: ClassVar = {"lora_unet": 32}
