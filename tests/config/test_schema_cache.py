from __future__ import annotations

import json
from pathlib import Path

from lora_training.config import schema
from lora_training.config.schema import reader
from tests.config.conftest import FILES
from tests.helpers import write


def cached(folder: Path) -> Path:
    (entry,) = (folder / "schemas").iterdir()
    return entry


def test_a_second_reading_comes_from_the_cache(tree, tmp_path, monkeypatch):
    first = schema.read(tree, "train_network", cache=tmp_path / "cache")
    monkeypatch.setattr(reader, "read", None)  # it would fail
    assert schema.read(tree, "train_network", cache=tmp_path / "cache") == first


def test_a_changed_file_of_the_tree_is_read_again(tree, tmp_path):
    schema.read(tree, "train_network", cache=tmp_path)
    write(tree, {"library/names.py": FILES["library/names.py"].replace('"shuffle_caption"', '"renamed"')})
    assert "renamed" in schema.read(tree, "train_network", cache=tmp_path).keys


def test_a_file_that_appears_where_one_was_looked_for_is_seen(tree, tmp_path):
    schema.read(tree, "train_network", cache=tmp_path)
    shadow = FILES["library/args.py"].replace("default=7", "default=8").replace(".names", "library.names")
    write(tree, {"library/args/__init__.py": shadow})
    (tree / "library/args.py").unlink()
    assert schema.read(tree, "train_network", cache=tmp_path).keys["seed"].default == 8


def test_a_damaged_entry_is_made_again(tree, tmp_path):
    first = schema.read(tree, "train_network", cache=tmp_path)
    cached(tmp_path).write_text("{")
    assert schema.read(tree, "train_network", cache=tmp_path) == first
    assert json.loads(cached(tmp_path).read_text())["schema"]["script"] == "train_network"


def test_a_cache_that_cannot_be_written_is_done_without(tree, tmp_path):
    (tmp_path / "file").write_text("")
    assert schema.read(tree, "train_network", cache=tmp_path / "file").keys
