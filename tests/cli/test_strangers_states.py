"""A state or a record from somebody else: what is refused, through the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lora_training import cli
from tests.helpers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SMOKE = ROOT / "configs" / "smoke.toml"


@pytest.mark.usefixtures("sd_scripts")
@pytest.mark.parametrize("flag", ["resume=/state", "resume_from_huggingface=true"])
def test_upstreams_own_flags_for_a_state_are_exit_3(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["train", str(SMOKE), "--set", f"output_dir={tmp_path}", "--set", flag, "--dry-run"]) == 3
    said = capsys.readouterr().err
    assert f"`{flag.partition('=')[0]}` is not passed on" in said
    assert "`[run] resume`" in said
