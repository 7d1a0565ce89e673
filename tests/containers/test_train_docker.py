"""`lora train --docker` as a user has it, against an engine whose containers are processes."""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lora_training import workspace
from lora_training.upstream import pins
from tests.helpers import ROOT, lora, write
from tests.trees import kept, listing

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.containers import fake

    Script = Callable[[str], None]

pytest.importorskip("torch")
pytestmark = pytest.mark.upstream
SMOKE = ROOT / "configs" / "smoke.toml"


@pytest.fixture(autouse=True)
def cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sd_scripts: Path) -> None:
    """A machine without a GPU, and its own folder for the hub."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


def given(output: Path, *sets: str) -> list[str]:
    return [word for item in (f"output_dir={output}", *sets) for word in ("--set", item)]


def made_from(here: workspace.Workspace) -> dict[str, str]:
    """The labels of an image that was made from this very checkout."""
    lock = (here.patches / "patches.lock").read_bytes()
    labels = {f"lora.pin.{name}": pins.pin(here, name) for name in here.upstreams}
    return {**labels, "lora.patches.sha256": hashlib.sha256(lock).hexdigest()}


@pytest.fixture
def ours(engine: fake.Engine) -> fake.Engine:
    engine.images["lora-training"] = made_from(workspace.Workspace(ROOT))
    engine.env |= {"LORA_HOME": str(ROOT), workspace.RUNS_VARIABLE: os.environ[workspace.RUNS_VARIABLE]}
    return engine


def test_it_trains_stops_by_a_signal_and_goes_on_without_a_container(ours: fake.Engine, tmp_path: Path) -> None:
    """SIGTERM to `lora` reaches the `lora` in the container, whose state a later run outside takes for its own."""
    sets = ("max_train_steps=20", "save_state=true", "save_every_n_steps=1000")
    out = tmp_path / "out put, with: all"
    words = [sys.executable, "-m", "lora_training", "train", str(SMOKE), *given(out, *sets)]
    with subprocess.Popen([*words, "--docker"], cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
        said = []
        assert running.stderr
        for line in running.stderr:
            said.append(line)
            if line.startswith("step 2/20"):
                running.send_signal(signal.SIGTERM)
    assert running.returncode == 143, said
    assert "the same command goes on" in "".join(said)
    (container,) = ours.removed
    assert container.signals == ["SIGTERM"]
    assert str(out) in {mount["Target"] for mount in container.body["HostConfig"]["Mounts"]}
    states = [path.name for path in out.glob("*-state")]
    assert len(states) == 1

    listed = lora("runs", "list", cwd=ROOT)
    assert str(out / "smoke.safetensors") in listed.out

    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "continuing from step" in done.stderr
    assert (out / "smoke.safetensors").exists()

    again = lora("train", SMOKE, *given(out, *sets), "--docker", cwd=ROOT)
    assert again.code == 0
    assert "this run is complete" in again.err
    assert f"trained   {out}/smoke.safetensors" in again.out


def test_a_dry_run_prints_one_line_and_writes_nothing(ours: fake.Engine, tmp_path: Path) -> None:
    before = listing(tmp_path), kept(ROOT)
    ran = lora("train", SMOKE, *given(tmp_path / "out"), "--docker", "--dry-run", "--resume", "never", "-v", cwd=ROOT)
    assert (ran.code, ran.err) == (0, "")
    assert len(ran.out.splitlines()) == 1
    words = shlex.split(ran.out)
    assert words[:3] == ["docker", "run", "--rm"]
    tail = ["train", str(SMOKE), "--set", f"output_dir={tmp_path}/out", "--resume", "never", "--verbose"]
    assert words[words.index("lora-training") :] == ["lora-training", *tail]
    assert f"{os.getuid()}:{os.getgid()}" in words
    assert (listing(tmp_path), kept(ROOT)) == before
    assert {method for method, _ in ours.requests} == {"GET"}


def test_a_dry_run_needs_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    ran = lora("train", SMOKE, *given(tmp_path / "out"), "--docker", "--dry-run", cwd=ROOT)
    assert ran.code == 0
    assert ran.out.startswith("docker run --rm ")
    assert "ordinary Docker" in ran.err


def test_without_an_engine_it_is_exit_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    ran = lora("train", SMOKE, *given(tmp_path / "out"), "--docker", cwd=ROOT)
    assert ran.code == 4
    assert ran.err.startswith("error: there is no container engine here\nhint: ")
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_with_the_configuration_is_said_before_any_engine_is_asked(
    ours: fake.Engine, tmp_path: Path
) -> None:
    ran = lora("train", SMOKE, *given(tmp_path / "out", "learning_rat=1", "vae=gone.pt"), "--docker", cwd=ROOT)
    assert ran.code == 3
    assert "learning_rate" in ran.err
    assert "gone.pt does not exist" in ran.err
    assert ours.requests == []
    assert not (tmp_path / "out").exists()


def test_the_containers_exit_code_is_passed_on(ours: fake.Engine, script: Script, tmp_path: Path) -> None:
    script('echo "error: no luck" >&2; exit 6')
    ran = lora("train", SMOKE, *given(tmp_path / "out"), "--docker", cwd=ROOT)
    assert (ran.code, ran.err) == (6, "error: no luck\n")


def test_one_that_was_killed_from_outside_is_exit_6(ours: fake.Engine, script: Script, tmp_path: Path) -> None:
    script("kill -9 $$")
    ran = lora("train", SMOKE, *given(tmp_path / "out"), "--docker", cwd=ROOT)
    assert ran.code == 6
    assert "was killed: code 137" in ran.err


def test_a_hangup_is_passed_on_and_is_its_exit_code(ours: fake.Engine, script: Script, tmp_path: Path) -> None:
    script('trap "exit 129" HUP; echo begun; while :; do sleep 0.1; done')
    argv = [sys.executable, "-m", "lora_training", "train", str(SMOKE), *given(tmp_path / "out"), "--docker"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        assert running.stdout
        assert running.stdout.readline() == "begun\n"
        running.send_signal(signal.SIGHUP)
    assert running.returncode == 129
    (container,) = ours.removed
    assert container.signals == ["SIGHUP"]


def test_a_reader_that_goes_away_does_not_end_the_container(ours: fake.Engine, script: Script, tmp_path: Path) -> None:
    script(f"seq 100000; touch {tmp_path}/trained")
    argv = [sys.executable, "-m", "lora_training", "train", str(SMOKE), *given(tmp_path / "out"), "--docker"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        assert running.stdout
        running.stdout.readline()
        running.stdout.close()
    assert running.returncode == 0
    assert (tmp_path / "trained").exists()


def test_it_gets_the_settings_of_this_environment_and_nothing_else(
    ours: fake.Engine,
    script: Script,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script("env")
    for name in ("LORA_LEARNING_RATE", "HF_TOKEN", "UNRELATED", "LORA_EVENTS"):
        monkeypatch.setenv(name, "0.5")
    ran = lora("train", SMOKE, *given(tmp_path / "out"), "--docker", cwd=ROOT)
    got = dict(line.split("=", 1) for line in ran.out.splitlines())
    assert (got["LORA_LEARNING_RATE"], got["HF_TOKEN"], got["ACCELERATE_USE_CPU"]) == ("0.5", "0.5", "1")
    assert got["LORA_CACHE"] == str(workspace.Workspace(ROOT).cache)
    assert not {"UNRELATED", "LORA_EVENTS", "HOME", "HF_HOME"} & set(got)


def test_paths_with_dots_and_a_hub_cache_of_its_own_are_told_as_they_are(
    ours: fake.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"c/my.toml": SMOKE.read_text(encoding="utf-8"), "d/e/.keep": ""})
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "models"))
    ran = lora("train", "../../c/my.toml", "--docker", "--dry-run", "--resume", "../s", cwd=tmp_path / "d" / "e")
    words = shlex.split(ran.out)
    assert words[-4:] == ["train", f"{tmp_path}/c/my.toml", "--resume", f"{tmp_path}/d/s"]
    assert f"type=bind,source={tmp_path}/c/my.toml,target={tmp_path}/c/my.toml,readonly" in words
    assert f"type=bind,source={tmp_path}/output/smoke,target={tmp_path}/output/smoke" in words
    assert f"type=bind,source={tmp_path}/models,target=/cache/hub" in words
    assert "HF_HUB_CACHE=/cache/hub" in words


def test_a_machine_with_gpus_asks_for_them(ours: fake.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"bin/nvidia-smi": "#!/bin/sh\necho 'GPU 0: one'\n"})
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    ran = lora("train", SMOKE, *given(tmp_path / "out"), "--docker", cwd=ROOT)
    assert ran.code == 4
    assert "error: the container engine has no GPU to give" in ran.err


def test_an_image_of_another_patch_set_is_refused_unless_it_is_named(
    ours: fake.Engine,
    script: Script,
    tmp_path: Path,
) -> None:
    script("exit 0")
    ours.images["lora-training"]["lora.patches.sha256"] = "0" * 64
    words = ("train", SMOKE, *given(tmp_path / "out"))
    refused = lora(*words, "--docker", cwd=ROOT)
    assert refused.code == 4
    assert "patch set 000000000000, not" in refused.err
    assert "--image lora-training" in refused.err
    # a label that is missing is no difference
    ours.images["lora-training"] |= {"lora.pin.sd-scripts": "d" * 40, "lora.patches.sha256": ""}
    taken = lora(*words, "--docker", "--image", "lora-training", cwd=ROOT)
    assert taken.code == 0
    assert "warning: the image lora-training does not match this checkout: sd-scripts dddddddddddd" in taken.err
    assert "warning: the image lora-training does not say its patch set\n" in taken.err


def test_a_file_of_the_container_belongs_to_the_caller(ours: fake.Engine, script: Script, tmp_path: Path) -> None:
    script("exit 0")
    lora("train", SMOKE, *given(tmp_path / "out"), "--docker", cwd=ROOT)
    assert ours.removed[0].body["User"] == f"{os.getuid()}:{os.getgid()}"
    assert (tmp_path / "out").stat().st_uid == os.getuid()
    assert (tmp_path / "hub").is_dir()
