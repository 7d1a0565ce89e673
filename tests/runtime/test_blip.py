"""Upstream's BLIP with the installed packages: `tests/dataset/test_captioning.py` has it caption images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.runtime.conftest import Trainer

pytestmark = pytest.mark.upstream
SCRIPT = """
import importlib, sys
from pathlib import Path
from transformers import GenerationMixin
from lora_training.runtime import model, registry

if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd() / "finetune"))
    registry.install(dict.fromkeys(sys.argv[1:], {}), Path.cwd(), model.Start((), {}))
    print("generates:", issubclass(importlib.import_module("blip.med").BertLMHeadModel, GenerationMixin))
    try:
        importlib.import_module("blip.vit")
    except ImportError as exc:
        print(exc)
"""


def test_without_it_blip_needs_fairscale_and_generates_nothing(train: Trainer, tmp_path: Path) -> None:
    without = train.script(tmp_path, SCRIPT, runtime={})
    assert without.log.splitlines()[-2:] == ["generates: False", "No module named 'fairscale'"]
    patched = train.script(tmp_path, SCRIPT, "blip", runtime={})
    assert patched.log.splitlines()[-1] == "generates: True"
