from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lora_training import proc
from lora_training.launch.spec import LaunchSpec, Processes, build

RUNTIME = proc.module("lora_training.runtime", "py")


def test_the_shell_line_runs_the_same_command(tmp_path: Path) -> None:
    folder = tmp_path / "it's here"
    folder.mkdir()
    show = "import os, sys; print(os.getcwd(), os.environ['A'], sys.argv[1:])"
    spec = LaunchSpec((sys.executable, "-c", show, "a b", "$HOME", ""), {"A": "x 'y'"}, folder)
    done = subprocess.run(["sh", "-c", spec.shell()], capture_output=True, text=True, check=True)
    assert done.stdout == f"{folder} x 'y' {['a b', '$HOME', '']}\n"
    assert "\n" not in spec.shell()


def test_one_process_runs_the_script_through_our_bootstrap(tmp_path: Path) -> None:
    spec = build("py", tmp_path / "t.py", ["--seed", "0"], runtime={"LORA_RUNTIME": "{}"}, mixed_precision="bf16")
    assert spec.argv == (*RUNTIME, str(tmp_path / "t.py"), "--seed", "0")
    assert spec.env["ACCELERATE_MIXED_PRECISION"] == "bf16"
    assert spec.cwd == tmp_path


def start(processes: Processes) -> LaunchSpec:
    return build("py", Path("/up/t.py"), ["--seed", "0"], processes=processes, runtime={}, mixed_precision="bf16")


def test_accelerate_is_told_all_that_it_would_ask_its_own_configuration_for() -> None:
    spec = start(Processes(4, (0, 2), machines=2, machine_rank=1, ip="10.0.0.1", port=1234, rdzv_backend="c10d"))
    launcher, script = spec.argv[: spec.argv.index("/up/t.py")], spec.argv[spec.argv.index("/up/t.py") :]
    first, last = (*proc.module("accelerate.commands.launch", "py"), "--multi_gpu"), ("--no_python", *RUNTIME)
    assert launcher[: len(first)] == first
    assert launcher[-len(last) :] == last
    assert script == ("/up/t.py", "--seed", "0")
    options = launcher[len(first) : -len(last)]
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert given == {
        "--num_processes": "4",
        "--num_machines": "2",
        "--machine_rank": "1",
        "--gpu_ids": "0,2",
        "--mixed_precision": "bf16",
        "--num_cpu_threads_per_process": "1",
        "--dynamo_backend": "no",
        "--rdzv_backend": "c10d",
        "--main_process_ip": "10.0.0.1",
        "--main_process_port": "1234",
    }
    assert "ACCELERATE_USE_CPU" not in spec.env


def test_one_process_is_started_as_ever_on_the_gpu_that_was_named() -> None:
    spec = start(Processes(1, (3,)))
    assert spec.argv == (*RUNTIME, "/up/t.py", "--seed", "0")
    assert spec.env["CUDA_VISIBLE_DEVICES"] == "3"


def test_ranks_that_meet_in_a_file_are_started_by_us() -> None:
    spec = start(Processes(2, cpu=True, file_store=True))
    assert spec.argv == (*proc.module("lora_training.runtime.ranks", "py"), "2", "/up/t.py", "--seed", "0")
    assert spec.env["ACCELERATE_USE_CPU"] == "1"
