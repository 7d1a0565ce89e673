"""What `make docker-build` and `make docker-run` give to the engine."""

from __future__ import annotations

import ast
import hashlib
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from devtools import image
from lora_training import workspace
from lora_training.launch.container import STOP_TIMEOUT_S
from lora_training.upstream import pins
from tests.helpers import ROOT, write


def arguments(command: list[str]) -> dict[str, str]:
    """The build arguments."""
    pairs = itertools.pairwise(command)
    return dict(word.split("=", 1) for flag, word in pairs if flag == "--build-arg")


def test_a_build_is_told_the_pins_and_the_patches_that_it_is_checked_against() -> None:
    given, here = arguments(image.build("docker", "name", [])), workspace.Workspace(ROOT)
    assert given["PIN_SD_SCRIPTS"] == pins.pin(here, "sd-scripts")
    assert given["PIN_TRANSFORMERS"] == pins.pin(here, "transformers")
    lock = (ROOT / "patches" / "patches.lock").read_bytes()
    assert given["PATCHES_SHA256"] == hashlib.sha256(lock).hexdigest()


def test_every_build_argument_is_one_that_the_dockerfile_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://packages.example.invalid/simple")
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    known = {line.removeprefix("ARG ").split("=")[0] for line in lines if line.startswith("ARG ")}
    # buildah itself would be asked how it stores layers
    assert set(arguments(image.build("podman", "name", []))) <= known


def test_certificates_and_a_package_index_of_ones_own_reach_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/a/bundle.pem")
    monkeypatch.setenv("PIP_INDEX_URL", "https://packages.example.invalid/simple")
    command = image.build("podman", "name", ["--no-cache"])
    assert "id=ca,src=/a/bundle.pem" in command
    assert arguments(command)["PIP_INDEX_URL"] == "https://packages.example.invalid/simple"
    assert command[-2:] == ["--no-cache", str(ROOT)]


def test_an_engine_that_is_not_there_is_one_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert image.main(["build", "--engine", "podman"]) == 1
    assert capsys.readouterr().err.startswith("error: there is no podman here\nhint: ")


@pytest.mark.parametrize(("flags", "code"), [("--tag", 1), ("--tag --secret", 7), ("", 7)])
def test_a_docker_without_buildkit_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], flags: str, code: int
) -> None:
    write(tmp_path, {"docker": f'#!/bin/sh\n[ "$2" = --help ] && echo "{flags}" && exit\nexit 7\n'})
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert image.main(["build"]) == code
    assert ("error: this docker has no BuildKit" in capfd.readouterr().err) is (code == 1)


def test_a_run_is_the_callers_and_has_time_to_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the engine writes down its arguments."""
    write(tmp_path, {"docker": f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/given\nexit 143\n'})
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(image, "ROOT", tmp_path)
    assert image.main(["run", "--image", "name", "--with=--gpus all", "--", "train", "/data/my.toml"]) == 143
    given = (tmp_path / "given").read_text(encoding="utf-8").splitlines()
    assert given[-5:] == ["--gpus", "all", "name", "train", "/data/my.toml"]
    assert f"{os.getuid()}:{os.getgid()}" in given
    assert given[given.index("--stop-timeout") + 1] == str(STOP_TIMEOUT_S)
    assert (tmp_path / "output").is_dir()


def test_compose_gives_the_training_time_to_save_and_shows_what_it_writes() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert services["train"]["stop_grace_period"] == f"{STOP_TIMEOUT_S // 60}m"
    assert "./output:/out" in services["train"]["volumes"]
    assert "./output:/out:ro" in services["tensorboard"]["volumes"]


def test_what_the_dockerfile_copies_is_in_the_context() -> None:
    """The ignore file names every path that the Dockerfile copies."""
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    copies = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ") and "--from" not in line]
    assert {source.split("/")[0] for sources in copies for source in sources} <= let_in
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert let_in <= {path.split("/")[0] for path in tracked.splitlines()}


def test_what_the_build_copies_first_is_enough_to_bring_the_trees(tmp_path: Path) -> None:
    stage = (ROOT / "Dockerfile").read_text(encoding="utf-8").partition("AS trees")[2].partition("upstream.seal")[0]
    copies = [line.split() for line in stage.replace("\\\n", " ").splitlines() if line.startswith("COPY lora_training")]
    for *sources, target in (words[1:] for words in copies):
        for source in map(ROOT.joinpath, sources):
            place = tmp_path / target / source.name if target.endswith("/") else tmp_path / target
            place.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, place)
    nodes = [node for file in tmp_path.rglob("*.py") for node in ast.walk(ast.parse(file.read_bytes()))]
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lora_")]
    names = {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
    modules = {name for name in names if (ROOT / f"{name.replace('.', '/')}.py").exists()}
    modules |= {str(node.module) for node in froms if node.module != "lora_training"}
    # those that are imported within functions, too
    argv = [sys.executable, "-c", f"import importlib; [importlib.import_module(name) for name in {sorted(modules)}]"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(modules) > 5
