"""A runtime patch that does not fit its target is an error before the child starts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lora_training.runtime import verify
from tests.helpers import ROOT, Ran, git, lora, write
from tests.trees import listing

SMOKE = ROOT / "configs" / "smoke.toml"


@pytest.fixture
def changed(sd_scripts: Path, tmp_path: Path) -> Path:
    """A folder to put before the packages, with an accelerate in it that is not the one that nan-guard is made for."""
    pytest.importorskip("torch")
    found = verify.locate("accelerate.scheduler", sd_scripts)
    assert found
    text = found.read_text(encoding="utf-8").replace("for _ in range(num_processes):", "for _ in range(1):")
    write(tmp_path / "packages", {"accelerate/scheduler.py": text})
    return tmp_path / "packages"


def _train(changed: Path, output: Path, *args: str) -> Ran:
    env = {**os.environ, "PYTHONPATH": str(changed)}
    return lora("train", SMOKE, "--set", f"output_dir={output}", *args, cwd=ROOT, env=env)


@pytest.mark.upstream
def test_it_is_named_with_the_way_out_before_an_earlier_run_is_put_aside(changed: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    write(output, {"smoke.safetensors": "an earlier run's"})
    before = listing(output)
    ran = _train(changed, output, "--resume", "never")
    assert ran.code == 5
    assert "error: a runtime patch does not fit: runtime patch " in ran.err
    assert f"AcceleratedScheduler.step in {changed / 'accelerate/scheduler.py'} has changed since the pin" in ran.err
    assert "nan-guard" in ran.err
    assert "--set runtime." in ran.err
    assert "--without" in ran.err
    assert listing(output) == before


@pytest.mark.upstream
def test_one_that_is_switched_off_stands_in_nobodys_way(changed: Path, tmp_path: Path) -> None:
    ran = _train(changed, tmp_path, "--dry-run")
    assert ran.code == 5
    again = _train(changed, tmp_path, "--dry-run", "--set", "runtime.nan-guard=false")
    assert again.code == 0, again.err


@pytest.mark.upstream
def test_after_a_revert_the_cure_is_to_apply_the_patches(sd_scripts: Path, tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    for name in (".gitmodules", "patches", "third_party", "PATCHES.md", "configs", "lora_training"):
        source = ROOT / name
        copied = copy / name
        copied.parent.mkdir(exist_ok=True)
        shutil.copytree(source, copied, symlinks=True) if source.is_dir() else shutil.copyfile(source, copied)
    git("init", "-q", cwd=copy)
    for name, commit in (line.split()[:2] for line in _pins()):
        git("update-index", "--add", "--cacheinfo", f"160000,{commit},{name}", cwd=copy)
    # the package of the copy: no other checks its runtime patches against these trees
    env = {**os.environ, "LORA_HOME": str(copy), "PYTHONPATH": str(copy)}
    assert lora("patch", "verify", cwd=copy, env=env).out == "all patches are in, nothing drifted\n"
    assert lora("patch", "revert", cwd=copy, env=env).code == 0
    said = lora("patch", "verify", cwd=copy, env=env).out
    assert "train_network.py is pristine\n" in said
    assert "mend: lora patch apply\n" in said
    assert "--without" not in said


def _pins() -> list[str]:
    listed = git("ls-files", "-s", "third_party", cwd=ROOT).splitlines()
    return [f"{line.split()[3]} {line.split()[1]}" for line in listed if line.startswith("160000")]
