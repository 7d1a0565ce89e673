"""The package is found when it is imported, and run when it is used: each time in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_training.runtime import bootstrap
from tests.helpers import ROOT, write

FAKE = {
    "bitsandbytes/__init__.py": "print('ran the package')\nfrom . import optim\nvalue = 1\n",
    "bitsandbytes/optim.py": "print('ran optim')\nclass AdamW8bit: pass\n",
}


def ran(folder: Path, script: str, *, lazy: bool = True) -> list[str]:
    """Run a script as a training is run, with packages of `folder` first; return its output."""
    (folder / "script.py").write_text(script, encoding="utf-8")
    chosen = {"lazy-bitsandbytes": {}} if lazy else {}
    env = os.environ | bootstrap.environment(chosen) | {"PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "lora_training.runtime", str(folder / "script.py")]
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_an_import_runs_nothing_and_a_use_runs_all(tmp_path: Path) -> None:
    write(tmp_path, FAKE)
    script = "import bitsandbytes as bnb\nprint('imported')\nprint(bnb.value, bnb.optim.AdamW8bit.__name__)\n"
    assert ran(tmp_path, script) == ["imported", "ran the package", "ran optim", "1 AdamW8bit"]
    assert ran(tmp_path, script, lazy=False)[0] == "ran the package"


@pytest.mark.parametrize("use", ["import bitsandbytes.optim", "from bitsandbytes import optim"])
def test_a_submodule_comes_after_its_package(tmp_path: Path, use: str) -> None:
    write(tmp_path, FAKE)
    assert ran(tmp_path, f"import bitsandbytes\n{use}\nprint('used')\n") == ["ran the package", "ran optim", "used"]


def test_looking_for_the_source_of_something_else_does_not_run_it(tmp_path: Path) -> None:
    write(tmp_path, FAKE)
    script = (
        "import inspect, bitsandbytes\nclass A: pass\ninspect.getmodule(compile('1', 'x', 'eval'))\nprint('done')\n"
    )
    assert ran(tmp_path, script) == ["done"]


def test_an_error_in_it_is_raised_where_it_is_used(tmp_path: Path) -> None:
    write(tmp_path, {"bitsandbytes/__init__.py": "raise RuntimeError('no GPU')\n"})
    script = "import bitsandbytes\ntry:\n    bitsandbytes.optim\nexcept RuntimeError as exc:\n    print(exc)\n"
    assert ran(tmp_path, script) == ["no GPU"]


@pytest.mark.upstream
def test_upstreams_start_does_without_the_compiler_and_the_optimizer_is_still_there(
    sd_scripts: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    script = f"""
import sys
sys.path.insert(0, {str(sd_scripts)!r})
import train_network
print("torch._inductor.compile_fx" in sys.modules)
from bitsandbytes.optim import AdamW8bit
import torch
print(issubclass(AdamW8bit, torch.optim.Optimizer))
"""
    assert ran(tmp_path, script)[-2:] == ["False", "True"]
