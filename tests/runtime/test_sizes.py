"""The sizes of upstream's own models, built without memory: as they are, and with the patches that make them small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.runtime.conftest import TINY, Trainer

pytestmark = pytest.mark.upstream
# the models of the benchmark for a GPU at full size, and the UNet of SD 1.x
SCRIPT = """
import json, torch
from benchmarks import gpu
from library import model_util, original_unet

def parameters(model):
    return sum(each.numel() for each in model.parameters())

if __name__ == "__main__":
    with torch.device("meta"):
        found = {name: parameters(gpu.model(name)) for name in gpu.FAMILIES}
        found["sd15"] = parameters(original_unet.UNet2DConditionModel(**model_util.create_unet_diffusers_config(False)))
    print(json.dumps(found))
"""
FULL = {"sdxl": 2_567_463_684, "flux": 11_901_408_320, "sd15": 859_520_964}


@pytest.mark.parametrize("patches", [{}, {"tiny-models": {}, **TINY}], ids=["full", "tiny"])
def test_models_have_their_full_size_and_tiny_ones_with_the_patches(
    train: Trainer, tmp_path: Path, patches: dict[str, object]
) -> None:
    ran = train.script(tmp_path, SCRIPT, runtime=patches)
    assert ran.code == 0, ran.log
    found = json.loads(ran.log.splitlines()[-1])
    if patches:
        assert found.keys() == FULL.keys()
        assert max(found.values()) < 10_000_000
    else:
        assert found == FULL
