from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lora_training.launch.spec import LaunchSpec, one_process


def test_the_shell_line_runs_the_same_command(tmp_path: Path) -> None:
    folder = tmp_path / "it's here"
    folder.mkdir()
    show = "import os, sys; print(os.getcwd(), os.environ['A'], sys.argv[1:])"
    spec = LaunchSpec((sys.executable, "-c", show, "a b", "$HOME", ""), {"A": "x 'y'"}, folder)
    done = subprocess.run(["sh", "-c", spec.shell()], capture_output=True, text=True, check=True)
    assert done.stdout == f"{folder} x 'y' {['a b', '$HOME', '']}\n"
    assert "\n" not in spec.shell()


def test_one_process_runs_the_script_through_our_bootstrap(tmp_path: Path) -> None:
    spec = one_process("py", tmp_path / "t.py", ["--seed", "0"], runtime={"LORA_RUNTIME": "{}"}, mixed_precision="bf16")
    assert spec.argv == ("py", "-m", "lora_training.runtime", str(tmp_path / "t.py"), "--seed", "0")
    assert spec.env["ACCELERATE_MIXED_PRECISION"] == "bf16"
    assert spec.cwd == tmp_path
