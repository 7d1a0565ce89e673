"""Cached digests, and their renewal after every change of a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lora_training import stat_cache
from lora_training.supervise import digests


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as unchanged for a while from the moment they are written."""
    monkeypatch.setattr(stat_cache, "SETTLED_NS", -(10**12))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []
    original = digests.digest
    monkeypatch.setattr(digests, "digest", lambda path: (names.append(path.name), original(path))[1])
    return names


def files(folder: Path, **content: str) -> list[Path]:
    for name, text in content.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in content]


@pytest.mark.usefixtures("settled")
def test_the_second_time_nothing_is_read(tmp_path: Path, read: list[str]) -> None:
    paths = files(tmp_path, a="cat", b="dog")
    first = digests.of(paths, tmp_path / "cache")
    assert sorted(read) == ["a", "b"]
    assert digests.of(paths, tmp_path / "cache") == first
    assert sorted(read) == ["a", "b"]


@pytest.mark.usefixtures("settled")
def test_other_content_of_the_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    (path,) = files(tmp_path, a="cat")
    before = path.stat()
    first = digests.of([path], tmp_path / "cache")
    path.write_text("dog", encoding="utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digests.of([path], tmp_path / "cache") != first


def test_a_file_that_was_changed_just_now_is_read_again(tmp_path: Path, read: list[str]) -> None:
    paths = files(tmp_path, a="cat")
    digests.of(paths, tmp_path / "cache")
    digests.of(paths, tmp_path / "cache")
    assert read == ["a", "a"]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("memory", ["{", "[]", '{"a": 1}', '{"a": ["", "", ""]}'])
def test_a_damaged_memory_is_as_good_as_none(tmp_path: Path, memory: str) -> None:
    paths = files(tmp_path, a="cat")
    first = digests.of(paths, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_text(memory, encoding="utf-8")
    assert digests.of(paths, tmp_path / "cache") == first


def test_a_memory_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (path,) = files(tmp_path, a="cat")
    assert digests.of([path], path / "cache") == digests.of([path], None)


def test_pieces_of_a_large_file_stand_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "LARGE", 1000)
    monkeypatch.setattr(digests, "_PIECE", 10)
    path = tmp_path / "model"

    def of(data: bytes) -> str:
        path.write_bytes(data)
        return digests.digest(path)

    data = bytes(range(256)) * 10
    found = {of(data), of(data[:-1] + b"x"), of(b"x" + data[1:]), of(data + b"x"), of(data[::-1])}
    assert len(found) == 5
    assert all(each.startswith("pieces:") for each in found)


def test_a_file_that_is_gone_is_told_from_one_that_is_there(tmp_path: Path) -> None:
    assert digests.of([tmp_path / "gone"], None) == {str(tmp_path / "gone"): digests.UNREADABLE}


def test_the_digest_of_many_depends_on_names_and_contents_and_not_on_their_order() -> None:
    assert digests.together({"a": "1", "b": "2"}) == digests.together({"b": "2", "a": "1"})
    assert digests.together({"a": "1", "b": "2"}) != digests.together({"a": "2", "b": "1"})
