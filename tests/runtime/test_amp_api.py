from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import write
from tests.runtime.test_bootstrap import run

pytest.importorskip("torch")

SCRIPT = """
import inspect, sys, warnings
import torch
from torch.cuda.amp import GradScaler, autocast, custom_bwd, custom_fwd

class Double(torch.autograd.Function):
    @staticmethod
    @custom_fwd(cast_inputs=torch.float32)
    def forward(ctx, x):
        return x * 2
    @staticmethod
    @custom_bwd
    def backward(ctx, grad):
        return grad * 2

if __name__ == "__main__":
    warnings.simplefilter("ignore", UserWarning)   # "CUDA is not available", which either way is so on a CPU
    x = torch.ones(3, requires_grad=True)
    with autocast(), torch.cuda.amp.autocast(enabled=False, dtype=torch.bfloat16) as inner:
        y = Double.apply(x).sum()
    scaler = GradScaler(512.0, growth_interval=7)
    scaler.scale(y).backward()
    decorated = autocast(dtype=torch.bfloat16)(lambda: 1)()
    print(x.grad.tolist(), y.item(), scaler.state_dict(), inner.fast_dtype, inner.device, decorated)
    print(isinstance(scaler, torch.amp.GradScaler), issubclass(autocast, torch.autocast))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, {"script.py": SCRIPT})
    return tmp_path


def test_the_old_names_warn_without_it_and_do_the_same_in_silence_with_it(folder: Path) -> None:
    without, patched = run(folder, {}), run(folder, {"amp-api": {}})
    assert (without.returncode, patched.returncode) == (0, 0), patched.stderr
    # one for each line that calls one
    assert without.stderr.count("FutureWarning: `torch.cuda.amp.") == 5
    assert "FutureWarning" not in patched.stderr
    assert without.stdout == patched.stdout != ""
