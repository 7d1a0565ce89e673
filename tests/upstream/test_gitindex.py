"""What we read in an index is what git reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_training.upstream.gitindex import gitlinks
from tests.helpers import git, repository

ONE, TWO = "1" * 40, "2" * 40


def _pinned(folder: Path, *settings: str) -> Path:
    names = [f"{'d' * (1 + n % 9)}/f{n}.py" for n in range(40)]
    repository(folder, dict.fromkeys(names, "x"))
    for name, commit in (("third_party/one", ONE), ("z ü", TWO)):
        git(*settings, "update-index", "--add", "--cacheinfo", f"160000,{commit},{name}", cwd=folder)
    return folder / ".git" / "index"


def test_gitlinks_are_found_among_files(tmp_path: Path) -> None:
    assert gitlinks(_pinned(tmp_path / "r")) == {"third_party/one": ONE, "z ü": TWO}


def test_an_index_with_extended_flags_is_read(tmp_path: Path) -> None:
    index = _pinned(tmp_path / "r")
    git("update-index", "--skip-worktree", "d/f0.py", cwd=tmp_path / "r")
    (tmp_path / "r/later").write_text("x")
    git("add", "-N", "later", cwd=tmp_path / "r")
    assert gitlinks(index) == {"third_party/one": ONE, "z ü": TWO}


@pytest.mark.parametrize("args", [("--index-version", "4"), ("--split-index",)])
def test_an_index_of_another_kind_is_left_to_git(tmp_path: Path, args: tuple[str, ...]) -> None:
    index = _pinned(tmp_path / "r")
    git("update-index", *args, cwd=tmp_path / "r")
    assert gitlinks(index) is None


def test_a_damaged_or_missing_index_is_left_to_git(tmp_path: Path) -> None:
    index = _pinned(tmp_path / "r")
    data = index.read_bytes()
    for cut in range(0, len(data), 7):
        index.write_bytes(data[:cut])
        assert gitlinks(index) is None
    index.unlink()
    assert gitlinks(index) is None
