"""The start of a training without bitsandbytes, which it needs for an 8-bit optimizer only: in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_training.runtime import bootstrap

pytestmark = pytest.mark.upstream
SCRIPT = """
import sys
sys.path.insert(0, {!r})
import {}
print("torch._inductor.compile_fx" in sys.modules)
from bitsandbytes.optim import AdamW8bit
import torch
print(issubclass(AdamW8bit, torch.optim.Optimizer))
"""


@pytest.mark.parametrize(
    ("patches", "imported", "has_compiler"),
    [({}, "diffusers.models.modeling_utils", "True"), ({"lazy-bitsandbytes": {}}, "train_network", "False")],
    ids=["without", "with"],
)
def test_the_start_does_without_the_compiler_and_the_optimizer_is_still_there(
    sd_scripts: Path, tmp_path: Path, patches: dict[str, object], imported: str, has_compiler: str
) -> None:
    pytest.importorskip("bitsandbytes")
    (tmp_path / "script.py").write_text(SCRIPT.format(str(sd_scripts), imported), encoding="utf-8")
    argv = [sys.executable, "-m", "lora_training.runtime", str(tmp_path / "script.py")]
    env = os.environ | bootstrap.environment(patches)
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-2:] == [has_compiler, "True"], done.stderr
