"""The container image, built from the Dockerfile for real, on a Debian made for the purpose."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_training import workspace
from lora_training.upstream import pins
from tests.helpers import ROOT
from tests.image import container
from tests.image.container import Base, Buildah, Image, megabytes
from tests.ui.test_guard import ALL

pytestmark = pytest.mark.upstream
# beyond the base and the training packages, in MB
BUDGET_MB = 150
SOMEBODY = "1234:1234"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder of the caller's, to be mounted at /out."""
    folder = tmp_path / "out"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def test_the_patches_hold_in_it_and_nothing_needs_git(built: Image) -> None:
    ran = built.run("patch", "verify", user=SOMEBODY, read_only=True)
    assert (ran.code, ran.out) == (0, "all patches are in, nothing drifted\n"), ran.err
    assert built.run_instead("sh", "-c", "! command -v git && ! command -v cc").code == 0


def test_upstream_is_at_its_pins_and_says_where_it_came_from(built: Image) -> None:
    said = built.run("upstream", "status").out
    assert "sd-scripts: 6721028c79ee, at its pin, patched, from https://github.com/kohya-ss/sd-scripts" in said
    assert "transformers: 753d61104116, at its pin, patched" in said


def test_the_doctor_finds_nothing_wrong_in_it(built: Image) -> None:
    ran = built.run("doctor", user=SOMEBODY, read_only=True)
    assert ran.code == 0, ran.out


def test_its_labels_say_what_it_is_made_of(built: Image) -> None:
    labels, here = built.config["Labels"], workspace.Workspace(ROOT)
    assert labels["lora.pin.sd-scripts"] == pins.pin(here, "sd-scripts")
    assert labels["lora.pin.transformers"] == pins.pin(here, "transformers")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert labels["org.opencontainers.image.revision"].startswith(head.stdout.strip())
    digest = subprocess.run(
        ["sha256sum", ROOT / "patches" / "patches.lock"], check=True, capture_output=True, text=True
    )
    assert labels["lora.patches.sha256"] == digest.stdout.split()[0]


def test_its_own_weight_is_within_the_budget(built: Image, base: Base) -> None:
    (venv,) = (folder for folder in built.volumes.values() if folder.name == "venv")
    whole = megabytes(built.root, venv, leave_out="site-packages")
    assert whole - base.megabytes < BUDGET_MB


def test_left_alone_it_trains_the_smoke_run_and_says_what_is_next(built: Image, out: Path) -> None:
    ran = built.run(volumes={"/out": out})
    assert ran.code == 0, ran.err
    assert "steps     20" in ran.out
    assert (out / "smoke" / "smoke.safetensors").stat().st_uid == 1000
    assert "complete" in built.run("runs", "list", volumes={"/out": out}).out
    # follow the printed hint
    (line,) = (line for line in ran.out.splitlines() if " config new " in line)
    data = out / "data"
    data.mkdir()
    made = built.run(
        *shlex.split(line)[-11:], volumes={"/out": out, "/data": data}, user=f"{os.getuid()}:{os.getgid()}"
    )
    assert made.code == 0, made.err
    assert (data / "my.toml").exists()


def test_stopped_it_saves_and_the_next_one_goes_on(built: Image, out: Path) -> None:
    """As a stranger, with a root that cannot be written; SIGTERM goes to PID 1, as `docker stop` sends it."""
    words = ("train", "configs/smoke.toml", "--set", "max_train_steps=40")
    how = {"volumes": {"/out": out}, "user": SOMEBODY, "read_only": True}
    started = built.start(*words, **how)
    assert any(line.startswith("step ") for line in started.stderr)
    container.stop(started)
    stopped = container.finish(started)
    assert stopped.code == 143, stopped.err
    assert "state saved" in stopped.err
    resumed = built.run(*words, **how)
    assert resumed.code == 0, resumed.err
    assert "continuing from step" in resumed.err
    assert {path.stat().st_uid for path in (out / "smoke").rglob("*")} == {1234}


def test_the_page_answers_at_a_published_port_and_refuses_without_its_token(built: Image, out: Path) -> None:
    """The machine's network stands in for a published port, and 127.0.0.2 for the container's own address."""
    how = {"volumes": {"/out": out}, "user": SOMEBODY, "read_only": True, "network": "host"}
    started = built.start("ui", "--host", ALL, "--port", "0", **how)
    try:
        (entry,) = re.findall(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", started.stdout.readline())
        port, token = int(entry[0]), entry[1]
        assert ask(port, "/")[0] == 401
        assert ask(port, f"/?token={token[::-1]}")[0] == 401
        assert ask(port, "/", Host="elsewhere.example.invalid", Authorization=f"Bearer {token}")[0] == 421
        status, text = ask(port, "/", Authorization=f"Bearer {token}")
        assert (status, "<h1>Runs" in text) == (200, True)
        status, text = ask(port, "/configs/smoke", Authorization=f"Bearer {token}")
        assert (status, "train_network" in text) == (200, True)
    finally:
        container.stop(started)
        ended = container.finish(started)
    assert "Traceback" not in ended.err
    assert ended.code in (0, 143)


def ask(port: int, path: str, **headers: str) -> tuple[int, str]:
    """Return the status and the text of an answer."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.2", port, timeout=60)) as connection:
        connection.request("GET", path, headers={"Host": f"127.0.0.1:{port}", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_a_volume_that_fills_up_is_one_clear_error(built: Image, out: Path) -> None:
    with small_disk(out, "8m"):
        started = built.start(volumes={"/out": out}, user=SOMEBODY, read_only=True)
        assert any(line.startswith("step ") for line in started.stderr)
        fill(out / "full")
        ran = container.finish(started)
    assert ran.code == 6, ran.err
    errors = [line for line in ran.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert errors[0].startswith("error: the disk is full")
    assert "Traceback" not in ran.err


def fill(path: Path) -> None:
    """Write to a file until the disk has no byte left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 12))


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=1777", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_orphans_do_not_stay_as_zombies(built: Image) -> None:
    """A data loader's worker that outlives its parent becomes PID 1's."""
    leave = "(sleep 0.1 &) ; sleep 0.5; grep -l '^State:.Z' /proc/[0-9]*/status"
    ran = built.run_instead("sh", "-c", leave)
    assert ran.out == ""


def test_a_patch_that_does_not_hold_fails_the_build(buildah: Buildah, base: Base, tmp_path: Path) -> None:
    context = tmp_path / "context"
    shutil.copytree(ROOT, context, symlinks=True, ignore=_not_in_the_context)
    patch = context / "patches" / "sd-scripts" / "0001-resume-counts.patch"
    patch.write_text(patch.read_text().replace("\n ", "\n  ", 1))
    ran = buildah.build("--build-arg", f"BASE={base.name}", "--target", "trees", context=context)
    assert ran.code != 0
    assert "error: sd-scripts: 0001-resume-counts.patch was edited after locking" in ran.out + ran.err


def _not_in_the_context(folder: str, names: list[str]) -> set[str]:
    there = {".gitmodules", "Dockerfile", ".dockerignore", "LICENSE", "PATCHES.md", "README.md", "pyproject.toml"}
    there |= {"configs", "lora_training", "patches", "requirements", "third_party", "devtools"}
    return set(names) - there if Path(folder) == ROOT else set()
