from __future__ import annotations

from pathlib import Path

import pytest

from lora_training import files
from lora_training.errors import TrainingError

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_training_error_that_says_how_to_go_on() -> None:
    with pytest.raises(TrainingError, match="the disk is full") as raised, files.full_disk_reported():
        FULL.write_text("anything")
    assert raised.value.exit_code == 6
    assert "goes on from the last good state" in str(raised.value.hint)


def test_other_troubles_are_not_taken_for_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.full_disk_reported():
        (tmp_path / "none").read_bytes()
