"""Upstream's own tests, once as they are and once with every runtime patch active."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from lora_training.runtime import registry

if TYPE_CHECKING:
    from tests.runtime.conftest import Trainer

SCRIPT = """
import sys
import pytest
if __name__ == "__main__":
    # where upstream's modules are is where its tests are
    sys.exit(pytest.main(["tests", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", f"--junit-xml={sys.argv[1]}"]))
"""
# with the sizes that upstream has, since its tests build its own models; blip is for one script of another folder
ACTIVE = set(registry.available()) - {"tiny-models", "blip"}
EVERYTHING = {name: {} for name in ACTIVE} | {"tiny-unet": {"block_out_channels": [320, 640, 1280, 1280]}}
# what makes grad-scaler needed
FP16 = ("--mixed_precision", "fp16")


def outcomes(train: Trainer, folder: Path, runtime: dict[str, object]) -> dict[str, str]:
    folder.mkdir()
    ran = train.script(folder, SCRIPT, str(folder / "report.xml"), *FP16, runtime=runtime)
    assert ran.code in (0, 1), ran.log
    cases = ET.parse(folder / "report.xml").iter("testcase")  # noqa: S314 - pytest wrote it
    return {f"{case.get('classname')}::{case.get('name')}": ",".join(child.tag for child in case) for case in cases}


@pytest.mark.upstream
def test_with_every_patch_active_the_same_ones_pass(
    train: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = outcomes(train, tmp_path / "without", {})
    patched = outcomes(train, tmp_path / "patched", EVERYTHING)
    assert list(without.values()).count("") > 100
    assert patched == without
    said = (tmp_path / "patched" / "log.txt").read_text(encoding="utf-8")
    active = {name for name in registry.available() if f"lora: runtime patch {name}: on" in said}
    # nobody listens to events here, the run has no folder for samples, and there is one process
    assert active == ACTIVE - {"progress", "ranks", "rank-noise", "samples"}
