"""One page about the machine and the checkout, whatever state they are in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_training import cli
from lora_training.app.doctor import checkout as health
from lora_training.app.doctor import machine, torch
from lora_training.errors import UpstreamError
from lora_training.launch.gpus import Gpu
from tests.helpers import ROOT, commit, lora, repository, without_upstream

H200 = Gpu("NVIDIA H200", 143771, "570.86.15")
FINE = {
    "errors": {},
    "torch": "2.10.0",
    "torchvision": "0.25",
    "xformers": "0.0.35",
    "cuda": "12.8",
    "gpus": ["NVIDIA H200"],
}


def worst(found: Any) -> tuple[str, str]:
    order = ("error", "warning", "ok")
    each = min(found, key=lambda each: order.index(each.severity))
    return each.severity, f"{each.message} {each.hint}"


def test_packages_as_pinned_are_in_order(tmp_path: Path) -> None:
    pinned = tmp_path / "train.txt"
    text = (
        "# a comment\n-r other.txt\nNum_Py==2.2 ; python_full_version < '3.0' \\\n    --hash=sha256:aa\n"
        "Num_Py==2.4 ; python_full_version >= '3.0' \\\n    --hash=sha256:bb\n    # via x\nclick[extra]==8.1\n"
    )
    pinned.write_text(text, encoding="utf-8")
    assert machine.pins(text) == {"num-py": "2.4", "click": "8.1"}
    assert worst(machine.packages(pinned, {"num-py": "2.4", "click": "8.1"}))[0] == "ok"
    level, text = worst(machine.packages(pinned, {"num-py": "2.3", "click": "8.1"}))
    assert (level, "num-py 2.3 (pinned: 2.4)" in text) == ("warning", True)
    level, text = worst(machine.packages(pinned, {"num-py": "2.4"}))
    assert (level, "not installed: click" in text) == ("error", True)
    assert worst(machine.packages(tmp_path / "none.txt", {}))[0] == "warning"


def test_every_pin_of_ours_is_understood() -> None:
    text = (ROOT / "requirements" / "train.txt").read_text(encoding="utf-8")
    # of those with a condition, the ones for other machines do not count
    plain = [line for line in text.splitlines() if "==" in line and ";" not in line]
    assert len(plain) > 30
    assert {line.split("==")[0].strip() for line in plain} <= machine.pins(text).keys()
    assert "numpy" in machine.pins(text)


@pytest.mark.parametrize(
    ("changed", "gpus", "level", "said"),
    [
        ({}, [H200], "ok", ""),
        ({"gpus": []}, [], "warning", "trainings run on the CPU"),
        ({"gpus": [], "cuda": None}, [H200], "error", "a build for CPUs only"),
        ({"gpus": [], "cuda": "13.0"}, [H200], "error", "570.86.15 is too old for torch's CUDA 13.0"),
        ({"gpus": []}, [H200], "error", "CUDA_VISIBLE_DEVICES"),
        ({"errors": {"cuda": "no kernel image"}}, [H200], "error", "no kernel image"),
        ({"errors": {"xformers": "undefined symbol"}}, [H200], "warning", "undefined symbol"),
        ({"errors": {"torchvision": "operator does not exist"}}, [H200], "error", "make setup"),
    ],
)
def test_what_torch_says_is_held_against_the_gpus(changed: dict[str, Any], gpus: Any, level: str, said: str) -> None:
    found = worst(torch.findings(FINE | changed, gpus))
    assert found[0] == level
    assert said in found[1]


@pytest.mark.parametrize(
    ("driver", "cuda", "answer"),
    [
        ("525.60.13", "12.8", False),
        ("525.59", "12.0", True),
        ("450.80.02", "11.8", False),
        ("580.65.06", "13.0", False),
        ("1.0", "99.0", False),
        ("unknown", "12.8", False),
    ],
)
def test_which_drivers_are_too_old(driver: str, cuda: str, answer: bool) -> None:
    assert torch.is_too_old(driver, cuda) is answer


def test_an_environment_without_torch_is_a_problem_and_no_traceback(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
    python.chmod(0o755)
    for each in (python, tmp_path / "none"):
        assert worst(torch.findings(torch.probe(str(each)), []))[0] == "error"


def test_a_folder_that_cannot_be_written_to_is_a_warning_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = list(machine.writable({"cache": tmp_path / "file" / "cache", "state": tmp_path / "new" / "state"}))
    assert [each.severity for each in found] == ["warning", "ok"]
    assert "LORA_CACHE" in str(found[0].hint)
    assert not (tmp_path / "new").exists()


def test_without_git_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert worst(machine.git(tmp_path))[0] == "error"


def raising(error: Exception) -> Callable[[], Any]:
    def check() -> Any:
        raise error

    return check


@pytest.mark.parametrize("error", [UpstreamError("gone"), PermissionError(13, "denied"), ValueError("odd")])
def test_a_check_that_cannot_be_made_is_a_finding(error: Exception) -> None:
    (found,) = health.results("patches", raising(error))
    assert (found.where, found.severity) == ("patches", "error")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of this project without any upstream."""
    root = without_upstream(tmp_path / "checkout")
    monkeypatch.setenv("LORA_HOME", str(root))
    monkeypatch.setattr(torch, "probe", lambda _python: FINE)
    return root


def examined(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, str]]:
    code = cli.run(["doctor", "--json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    return code, {f"{each['about']} {each['text']}": each["level"] for each in findings}


def test_where_there_is_no_upstream_that_is_the_problem(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = examined(capsys)
    assert code == 1
    assert found["upstream sd-scripts is not there"] == "problem"


def test_a_tree_at_another_commit_is_a_problem(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository(checkout / "third_party" / "sd-scripts", {"train_network.py": ""})
    code, found = examined(capsys)
    assert code == 1
    assert any("not at its pin 6721028c79ee" in text and level == "problem" for text, level in found.items())


def test_a_broken_list_of_upstreams_is_a_problem(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit(checkout, {".gitmodules": "[submodule"})
    code, found = examined(capsys)
    assert code == 1
    assert any(".gitmodules cannot be read" in text for text in found)


def test_people_get_a_page_with_hints(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor"]) == 1
    page = capsys.readouterr().out
    assert "problem  upstream     sd-scripts is not there\n" in page
    assert "`lora upstream sync sd-scripts` brings it" in page
    assert page.splitlines()[-1].split()[1].startswith("problem")


@pytest.mark.upstream
def test_this_checkout_is_in_order(sd_scripts: Path) -> None:
    pytest.importorskip("torch")
    ran = lora("doctor", "--json", cwd=ROOT)
    found = json.loads(ran.out)
    assert [each for each in found["findings"] if each["level"] == "problem"] == []
    assert (ran.code, found["ok"]) == (0, True)
    assert {"torch", "packages", "patches", "runtime"} <= {each["about"] for each in found["findings"]}
