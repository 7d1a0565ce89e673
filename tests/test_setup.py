"""`make setup`, `make setup-dev` and the environment that `make test` gives the tests."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lora_training import bootstrap
from lora_training.workspace import RUNS_VARIABLE
from tests.helpers import ROOT, descendants, lora, write
from tests.supervise.test_child import gone

# a uv that makes an environment with the Python below, logs its arguments, and fails if `answers` says so
UV = """#!/bin/sh
here=$(dirname "$0")
echo "$@" >> "$here/asked"
case "$1" in
venv)
    for last; do :; done
    mkdir -p "$last/bin" "$last/lib/python3/site-packages"
    touch "$last/bin/lora" "$last/lib/python3/site-packages/__editable__.transformers-1.pth"
    cp "$here/python" "$last/bin/python";;
pip)
    test "$PYTHONPATH$PYTHONHOME" = "" || exit 1
    test ! -f "$here/answers/uv-$2" || exit 1;;
esac
"""
# this Python, but `lora` is only written down, and ends with the code in `answers`
PYTHON = """#!/bin/sh
test "$2" = lora_training || exec {python} "$@"
here=$LORA_HOME/.lora/uv/bin
shift 2
echo "$*" >> "$here/lora-asked"
for name in "$1-$2-$3" "$1-$2"; do
    test ! -f "$here/answers/$name" || exit "$(cat "$here/answers/$name")"
done
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
    python = PYTHON.format(python=shlex.quote(sys.executable))
    write(root, {"pyproject.toml": "", ".lora/uv/bin/uv": UV, ".lora/uv/bin/python": python})
    for name in ("uv", "python"):
        (root / ".lora/uv/bin" / name).chmod(0o755)
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


def set_up(clone: Path) -> tuple[int, str, list[str]]:
    """Run a set-up; return its exit code, its output and the `lora` commands that it ran."""
    asked = clone / ".lora/uv/bin/lora-asked"
    if asked.exists():
        asked.unlink()
    argv = [sys.executable, "-m", "lora_training.bootstrap"]
    done = subprocess.run(argv, cwd=clone, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr, asked.read_text(encoding="utf-8").splitlines() if asked.exists() else []


def answer(clone: Path, command: str, code: int) -> None:
    write(clone, {f".lora/uv/bin/answers/{command}": f"{code}"})


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


SYNC = ["upstream sync transformers", "upstream sync sd-scripts"]


def test_the_trees_are_fetched_and_patched_only_if_they_are_not_yet(clone: Path) -> None:
    assert set_up(clone)[2] == [*SYNC, "patch verify"]
    answer(clone, "patch-verify", 1)
    assert set_up(clone)[2] == [*SYNC, "patch verify", "patch apply"]


def test_a_check_of_the_patches_applies_none(clone: Path) -> None:
    set_up(clone)
    answer(clone, "patch-verify", 1)
    script = f'#!/bin/sh\nLORA_HOME={clone} exec {clone}/.venv/bin/python -m lora_training "$@"\n'
    write(clone, {".venv/bin/lora": script})
    (clone / ".venv/bin/lora").chmod(0o755)
    asked = clone / ".lora/uv/bin/lora-asked"
    asked.unlink()
    argv = ["make", "patch-verify", f"PYTHON={sys.executable}"]
    assert subprocess.run(argv, cwd=clone, capture_output=True, check=False).returncode == 2
    assert asked.read_text(encoding="utf-8") == "patch verify\n"


def test_a_new_environment_beside_a_training_has_transformers_before_the_patches_are_verified(clone: Path) -> None:
    set_up(clone)
    next((clone / ".venv").rglob("__editable__.transformers-*.pth")).unlink()
    answer(clone, "uv-install", 1)
    code, _, asked = set_up(clone)
    assert (code, asked) == (1, SYNC)


def test_without_sd_scripts_it_goes_on_and_soon_after_does_not_ask_the_host_again(clone: Path) -> None:
    answer(clone, "upstream-sync-sd-scripts", 4)
    answer(clone, "patch-verify", 1)
    code, said, asked = set_up(clone)
    assert (code, asked) == (0, [*SYNC, "patch verify", "patch apply transformers"])
    assert "only the smoke config will train" in said
    code, said, asked = set_up(clone)
    assert (code, asked) == (0, [SYNC[0], "patch verify", "patch apply transformers"])
    assert "out of reach a moment ago" in said
    # brought by other means
    write(clone, {"third_party/sd-scripts/train_network.py": ""})
    assert set_up(clone)[2] == [*SYNC, "patch verify", "patch apply transformers"]


@pytest.mark.parametrize(
    ("command", "code"), [("upstream-sync-sd-scripts", 5), ("patch-apply", 5), ("patch-verify", 4)]
)
def test_any_other_failure_ends_it_with_the_command_and_its_code(clone: Path, command: str, code: int) -> None:
    answer(clone, "patch-verify", 1)
    answer(clone, command, code)
    ended, said, asked = set_up(clone)
    assert ended == 1
    assert f"-m lora_training {asked[-1]}` ended with code {code}" in said
    assert "ready" not in said


def test_an_environment_whose_packages_were_not_all_installed_is_made_anew(clone: Path) -> None:
    make(clone, "setup")
    (clone / "requirements/train.txt").write_text("c\n", encoding="utf-8")
    answer(clone, "uv-sync", 1)
    assert set_up(clone)[0] == 1
    (clone / ".lora/uv/bin/answers/uv-sync").unlink()
    (clone / "requirements/train.txt").write_text("a\n", encoding="utf-8")
    assert any("venv --quiet --clear" in line for line in make(clone, "setup"))


@pytest.mark.parametrize("how", ["moved", "damaged"])
def test_an_environment_that_cannot_work_is_made_anew(clone: Path, how: str) -> None:
    make(clone, "setup")
    if how == "moved":
        clone = clone.rename(clone.with_name("moved"))
    else:
        (clone / ".venv/bin/lora").unlink()
    assert pinned(make(clone, "setup")) == [".venv train.txt"]


def test_a_second_set_up_waits_for_the_first(clone: Path) -> None:
    with (clone / ".lora/setup.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        argv = [sys.executable, "-m", "lora_training.bootstrap"]
        second = subprocess.Popen(argv, cwd=clone, stderr=subprocess.PIPE, text=True)
        assert second.stderr
        assert "waiting for it" in second.stderr.readline()
        assert not (clone / ".venv").exists()
    assert "setup: ready\n" in second.communicate()[1]
    assert second.returncode == 0


def test_interrupted_while_pip_works_it_says_one_sentence_and_leaves_no_process(clone: Path) -> None:
    shutil.rmtree(clone / ".lora/uv")
    write(clone, {"requirements/uv.txt": f"uv==1.0 --hash=sha256:{'0' * 64}\n"})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        env = os.environ | {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": index, "NO_PROXY": "127.0.0.1"}
        argv = [sys.executable, "-m", "lora_training.bootstrap"]
        begun = subprocess.Popen(argv, cwd=clone, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
        asking, _ = silent.accept()
        with asking:
            working = descendants(begun.pid)
            os.killpg(begun.pid, signal.SIGINT)
            said = begun.communicate()[1]
    assert begun.returncode == 130
    assert said.splitlines() == ["setup: bringing uv", "setup: interrupted; run it again and it goes on"]
    assert working
    assert all(map(gone, working))


def test_a_file_that_cannot_be_used_is_one_sentence(clone: Path) -> None:
    (clone / ".lora/setup.lock").mkdir()
    code, said, _ = set_up(clone)
    assert (code, said.splitlines()) == (1, [f"setup: error: {clone}/.lora/setup.lock: Is a directory"])
    shutil.rmtree(clone / ".lora")
    (clone / ".lora").touch()
    code, said, _ = set_up(clone)
    assert (code, said.splitlines()) == (1, [f"setup: error: {clone}/.lora: File exists"])


def test_an_unknown_set_of_packages_and_an_old_python_are_usage_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bootstrap.main(["prod"]) == 2
    assert "hint: one of train, dev" in capsys.readouterr().err
    monkeypatch.setattr(bootstrap, "_NEEDS", (99, 0))
    assert bootstrap.main([]) == 2
    assert "hint: make PYTHON=" in capsys.readouterr().err


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
