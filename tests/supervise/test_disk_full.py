from __future__ import annotations

from pathlib import Path

import pytest

from lora_training.errors import TrainingError
from lora_training.supervise import disk_full

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_training_error_that_says_how_to_go_on() -> None:
    with pytest.raises(TrainingError, match="the disk is full") as raised, disk_full.reported():
        FULL.write_text("anything")
    assert raised.value.exit_code == 6
    assert "goes on from the last good state" in str(raised.value.hint)


def test_other_troubles_are_not_taken_for_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_full.reported():
        (tmp_path / "none").read_bytes()
