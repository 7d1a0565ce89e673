"""`make setup`, `make setup-dev` and the environment that `make test` gives the tests."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lora_training.workspace import RUNS_VARIABLE
from tests.helpers import ROOT, lora, write

# uv that makes an environment whose Python is this one, and writes down what it is asked for
UV = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/asked"
case "$1" in
venv)
    for last; do :; done
    mkdir -p "$last/bin" "$last/lib/python3/site-packages"
    touch "$last/bin/lora" "$last/lib/python3/site-packages/__editable__.transformers-1.pth"
    printf '#!/bin/sh\\ncase "$*" in *"-m lora_training "*) exit 0;; esac\\nexec "%s" "$@"\\n' {python} \\
        > "$last/bin/python"
    chmod +x "$last/bin/python";;
pip) test "$PYTHONPATH$PYTHONHOME" = "" || exit 1;;
esac
"""
HOSTILE = {
    "ACCELERATE_MIXED_PRECISION": "fp16",
    "CUDA_VISIBLE_DEVICES": "9",
    "GIT_DIR": "/x",
    "HF_HOME": "/nonexistent",
    "HF_HUB_OFFLINE": "1",
    "LORA_HOME": "/x",
    "LORA_LEARNING_RATE": "x",
    "PYTHONHOME": "/x",
    "PYTHONOPTIMIZE": "2",
    "PYTHONPATH": "/x",
    "TORCH_HOME": "/x",
    "TRANSFORMERS_OFFLINE": "1",
    "XDG_CACHE_HOME": "/x",
}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone that has what set-up looks at, and a uv that only looks like one."""
    root = tmp_path / "clone"
    write(root, {"requirements/uv.txt": "uv\n", "requirements/train.txt": "a\n", "requirements/dev.txt": "a\nb\n"})
    write(root, {"pyproject.toml": "", ".lora/uv/bin/uv": UV.format(python=shlex.quote(sys.executable))})
    (root / ".lora/uv/bin/uv").chmod(0o755)
    digest = hashlib.sha256((root / "requirements/uv.txt").read_bytes()).hexdigest()
    write(root, {".lora/uv/lora-setup.sha256": digest})
    (root / "lora_training").mkdir()
    for name in ("__init__.py", "bootstrap.py"):
        shutil.copy(ROOT / "lora_training" / name, root / "lora_training" / name)
    shutil.copy(ROOT / "Makefile", root / "Makefile")
    return root


def make(clone: Path, target: str, **more: str) -> list[str]:
    """What `make target` had uv do."""
    asked = clone / ".lora/uv/bin/asked"
    asked.unlink(missing_ok=True)
    argv = ["make", target, f"PYTHON={sys.executable}"]
    done = subprocess.run(argv, cwd=clone, env=os.environ | more, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = asked.read_text(encoding="utf-8").splitlines() if asked.exists() else []
    return [line for line in words if line != "--version"]


def pinned(asked: list[str]) -> list[str]:
    """The requirements that environments were made to hold."""
    return [
        f"{Path(line.split()[-2]).parent.parent.name} {Path(line.split()[-1]).name}"
        for line in asked
        if " sync " in line
    ]


def test_the_tools_of_the_project_stay_out_of_the_environment_for_training(clone: Path) -> None:
    assert pinned(make(clone, "setup")) == [".venv train.txt"]
    stamp = (clone / ".venv/lora-setup.json").read_text(encoding="utf-8")
    assert pinned(make(clone, "setup-dev")) == [".venv-dev dev.txt"]
    assert (clone / ".venv/lora-setup.json").read_text(encoding="utf-8") == stamp
    assert make(clone, "setup") == make(clone, "setup-dev") == []


def test_an_environment_that_had_the_tools_in_it_serves_until_requirements_change(clone: Path) -> None:
    make(clone, "setup-dev")
    (clone / ".venv-dev").rename(clone / ".venv")
    assert make(clone, "setup") == []
    (clone / "requirements/train.txt").write_text("c\n", encoding="utf-8")
    (clone / "requirements/dev.txt").write_text("c\nb\n", encoding="utf-8")
    assert pinned(make(clone, "setup")) == [".venv train.txt"]


def test_no_variable_of_the_shell_decides_a_set_up(clone: Path) -> None:
    assert pinned(make(clone, "setup-dev", **HOSTILE)) == [".venv-dev dev.txt"]


@pytest.mark.parametrize("target", ["test", "lint", "bench", "compat", "requirements"])
def test_what_works_on_the_project_touches_no_environment_for_training(target: str) -> None:
    said = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "lora_training.bootstrap dev" in said
    assert ".venv/" not in said


def test_no_variable_of_the_shell_reaches_a_test(tmp_path: Path) -> None:
    """The variables are set for another pytest, whose own conftest is the one here."""
    probe = tmp_path / "test_probe.py"
    names = [name for name in HOSTILE if not name.startswith("PYTHON")]
    probe.write_text(f"import os\ndef test_it():\n    assert not {{*os.environ}} & {{*{names}}}\n", encoding="utf-8")
    code = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    argv = [sys.executable, "-E", "-c", code, "-q", "-p", "no:cacheprovider", "-p", "tests.conftest", str(probe)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | HOSTILE
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_runs_of_tests_are_in_no_list_but_their_own() -> None:
    assert not Path(os.environ[RUNS_VARIABLE]).is_relative_to(ROOT)
    assert lora("runs", "list", cwd=ROOT).out == "no run yet: `lora train FILE` starts one\n"
