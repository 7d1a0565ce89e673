from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.runtime.conftest import Trainer

pytestmark = pytest.mark.upstream


def asked(folder: Path) -> tuple[str, ...]:
    prompts = folder / "prompts.txt"
    prompts.write_text("a cat --w 64 --h 64 --s 1 --d 3\n", encoding="utf-8")
    return (f"sample_prompts={prompts}", "sample_every_n_steps=2", "sample_at_first=true", "max_train_steps=2")


def test_samples_go_into_the_runs_folder_and_are_reported(train: Trainer, tmp_path: Path) -> None:
    folder = tmp_path / "the.run"
    left = folder / "drawing-0" / "sample" / "cats_000001_00_20260101000000_3.png"
    left.parent.mkdir(parents=True)
    left.touch()
    run = train(tmp_path / "out", *asked(tmp_path), runtime={"samples": {}}, env={"LORA_RUN_FOLDER": str(folder)})
    assert run.code == 0, run.log
    found = run.of("sample")
    assert [(each["step"], each["prompt"], each["number"], each["seed"]) for each in found] == [
        (0, "a cat", 0, 3),
        (2, "a cat", 0, 3),
    ]
    assert {path.name for path in folder.iterdir()} == {"samples"}
    assert sorted((folder / "samples").iterdir()) == sorted(Path(each["path"]) for each in found)
    assert not (tmp_path / "out" / "sample").exists()


def test_where_the_run_has_no_folder_they_are_where_upstream_puts_them(train: Trainer, tmp_path: Path) -> None:
    alone = train(tmp_path / "out", *asked(tmp_path), runtime={"samples": {}})
    assert alone.code == 0, alone.log
    assert len(list((tmp_path / "out" / "sample").glob("*.png"))) == 2
    assert "no folder" in alone.log
