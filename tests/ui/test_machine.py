"""The GPUs as the driver's library has them: three unlike ones, one that hangs, none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lora_training import workspace
from lora_training.launch import nvml
from tests.helpers import ROOT, lora

if TYPE_CHECKING:
    from tests.ui.conftest import Server

DRIVER = """
import os
class NVMLError(Exception): pass
class Values:
    def __init__(self, **values): vars(self).update(values)
GPUS = [
    Values(name="NVIDIA H100", uuid="GPU-aa", used=20, total=80, load=90, heat=61, watts=300_000, pids=[os.getppid()]),
    Values(name=b"NVIDIA H100", uuid=b"GPU-bb", used=0, total=80, load=0, heat=40, watts=70_500, pids=[]),
    Values(name="NVIDIA GB10", uuid="GPU-cc", used=None, total=None, load=None, heat=None, watts=None, pids=None),
]
def known(value):
    if value is None: raise NVMLError("Not Supported")
    return value
def nvmlInit(): pass
def nvmlDeviceGetCount(): return len(GPUS)
def nvmlDeviceGetHandleByIndex(index): return GPUS[index]
def nvmlDeviceGetName(gpu): return gpu.name
def nvmlDeviceGetUUID(gpu): return gpu.uuid
def nvmlDeviceGetMemoryInfo(gpu): return Values(used=known(gpu.used) * 10**9, total=gpu.total * 10**9)
def nvmlDeviceGetUtilizationRates(gpu): return Values(gpu=known(gpu.load))
def nvmlDeviceGetTemperature(gpu, sensor): return known(gpu.heat)
def nvmlDeviceGetPowerUsage(gpu): return known(gpu.watts)
def nvmlDeviceGetComputeRunningProcesses(gpu):
    return [Values(pid=pid, usedGpuMemory=None) for pid in known(gpu.pids)]
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """The environment in which a stand-in for NVIDIA's package is imported."""

    def make(code: str) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("driver")
        (folder / "pynvml.py").write_text(code, encoding="utf-8")
        return {**os.environ, "PYTHONPATH": str(folder), "CUDA_VISIBLE_DEVICES": "2,0"}

    return make


def test_three_unlike_gpus_are_one_document_whatever_is_visible(driver: Any) -> None:
    found = json.loads(lora("gpus", "--json", cwd=ROOT, env=driver(DRIVER)).out)
    assert [(gpu["index"], gpu["uuid"], gpu["name"]) for gpu in found["gpus"]] == [
        (0, "GPU-aa", "NVIDIA H100"),
        (1, "GPU-bb", "NVIDIA H100"),
        (2, "GPU-cc", "NVIDIA GB10"),
    ]
    assert (found["numGpus"], found["name"]) == (3, "2x NVIDIA H100, NVIDIA GB10")
    # a sum without the third one would be another card's
    assert (found["memoryTotal"], found["memoryUsed"], found["memoryPercent"]) == (None, None, None)
    assert (found["utilization"], found["temperature"]) == (45.0, 61)
    assert (found["gpus"][0]["memoryPercent"], found["gpus"][1]["power"]) == (25.0, 70.5)
    said = lora("gpus", cwd=ROOT, env=driver(DRIVER)).out
    assert "N/A of N/A GB, N/A %, N/A degrees, N/A W" in said
    two = json.loads(lora("gpus", "--json", cwd=ROOT, env=driver(DRIVER + "\ndel GPUS[2]")).out)
    assert (two["name"], two["memoryTotal"], two["memoryUsed"]) == ("2x NVIDIA H100", 160.0, 20.0)
    assert two["memoryPercent"] == 12.5


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import signal; signal.pause()", "the NVIDIA driver does not answer"),
        ("raise SystemExit(3)", "the NVIDIA driver cannot be asked (code 3)"),
        ("class NVMLError(Exception): pass\ndef nvmlInit(): raise NVMLError('x')", "no NVIDIA driver: x"),
        (DRIVER + "\nGPUS.clear()", "the NVIDIA driver has no GPU"),
    ],
)
def test_a_driver_that_hangs_or_is_not_there_is_said(
    code: str, why: str, driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", driver(code)["PYTHONPATH"])
    assert nvml.read(0.8 if "pause" in code else 30) == ([], why)


def test_without_a_gpu_the_document_is_empty(driver: Any) -> None:
    found = json.loads(lora("gpus", "--json", cwd=ROOT, env=driver(DRIVER + "\nGPUS.clear()")).out)
    assert found.pop("why") == "the NVIDIA driver has no GPU"
    assert (found.pop("numGpus"), found.pop("gpus")) == (0, [])
    assert set(found.values()) == {None}


def test_the_page_has_a_panel_for_each_and_the_same_document(
    browser: Any,
    driver: Any,
    runs: Path,
    serve: Callable[..., Server],
    shoot: Callable[[Any, str], None],
) -> None:
    server = serve(env={**driver(DRIVER), workspace.RUNS_VARIABLE: str(runs)})
    page = browser.new_page()
    page.goto(server.entry)
    page.goto(server.url("/machine"))
    page.get_by_text("GPU-cc").wait_for()
    panels = page.locator(".panels .card")
    assert panels.count() == 4
    assert "20.0 / 80.0 GB" in panels.nth(0).inner_text()
    assert panels.nth(2).inner_text().count("N/A") == 4
    assert server.ask("/gpus.json")[2]["numGpus"] == 3
    shoot(page, "machine")
    page.close()
