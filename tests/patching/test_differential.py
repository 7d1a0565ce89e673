"""Our result against git's and GNU patch's, on random trees."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lora_training.errors import PatchError
from lora_training.patching import adhoc
from tests.helpers import git
from tests.patching.conftest import diff_bytes, tree_of
from tests.patching.random_trees import Maker

SEEDS = range(60)


def _pair(tmp_path: Path, seed: int) -> tuple[Path, Path, Path]:
    """A random tree as a repository, the same tree changed, and the git diff between them."""
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    Maker(before, seed).fill()
    git("init", "-q", cwd=before)
    git("add", "-A", "-f", cwd=before)
    git("commit", "-q", "--allow-empty", "-m", "before", cwd=before)
    shutil.copytree(before, after, symlinks=True)
    maker = Maker(after, seed + 1_000_000)
    maker.change()
    git("add", "-A", "-f", cwd=after)
    patch = tmp_path / "change.patch"
    patch.write_bytes(diff_bytes(after, "--cached", "-M", "-C", "--find-copies-harder"))
    shutil.rmtree(before / ".git")
    shutil.rmtree(after / ".git")
    return before, after, patch


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_git_diff_gives_what_git_gives_and_goes_back(seed: int, tmp_path: Path) -> None:
    before, _, patch = _pair(tmp_path, seed)
    if not patch.read_bytes():
        return
    gits = tmp_path / "gits"
    shutil.copytree(before, gits, symlinks=True)
    original = tree_of(before)
    subprocess.run(["git", "apply", str(patch)], cwd=gits, check=True, capture_output=True)
    adhoc.apply(before, [patch], None)
    assert tree_of(before) == tree_of(gits)
    adhoc.revert(before, [patch])
    assert tree_of(before, without=()) == original


@pytest.mark.parametrize("seed", SEEDS)
def test_on_a_tree_that_moved_on_we_refuse_or_agree_with_git(seed: int, tmp_path: Path) -> None:
    before, _, patch = _pair(tmp_path, seed)
    if not patch.read_bytes():
        return
    Maker(before, seed + 2_000_000).edit()
    gits = tmp_path / "gits"
    shutil.copytree(before, gits, symlinks=True)
    original = tree_of(before)
    done = subprocess.run(["git", "apply", str(patch)], cwd=gits, check=False, capture_output=True)
    try:
        adhoc.apply(before, [patch], None)
    except PatchError:
        assert tree_of(before, without=()) == original
    else:
        assert done.returncode == 0, done.stderr
        assert tree_of(before) == tree_of(gits)


def _as_file(path: Path) -> None:
    path.write_text("a file\n")


def _as_folder(path: Path) -> None:
    (path / "in").mkdir(parents=True)
    (path / "in" / "f").write_text("in a folder\n")
    (path / "g").write_text("in a folder too\n")


def _as_link(path: Path) -> None:
    path.symlink_to("elsewhere")


KINDS = [_as_file, _as_folder, _as_link]


@pytest.mark.parametrize("before", KINDS)
@pytest.mark.parametrize("after", KINDS)
def test_a_name_that_becomes_something_else(before, after, tmp_path: Path) -> None:
    if before is after:
        return
    repo, ours = tmp_path / "repo", tmp_path / "ours"
    (repo / "elsewhere").mkdir(parents=True)
    (repo / "elsewhere" / "g").write_text("not to be touched\n")
    before(repo / "x")
    shutil.copytree(repo, ours, symlinks=True)
    git("init", "-q", cwd=repo)
    git("add", "-A", cwd=repo)
    git("commit", "-q", "-m", "before", cwd=repo)
    shutil.rmtree(repo / "x") if (repo / "x").is_dir() and before is _as_folder else (repo / "x").unlink()
    after(repo / "x")
    git("add", "-A", cwd=repo)
    patch = tmp_path / "change.patch"
    patch.write_bytes(diff_bytes(repo, "--cached"))
    original = tree_of(ours)
    adhoc.apply(ours, [patch], None)
    assert tree_of(ours) == tree_of(repo)
    adhoc.revert(ours, [patch])
    assert tree_of(ours, without=()) == original
