"""Killed, out of space, or refused in the middle: all of it or nothing, and the next command sees to that."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_training.errors import PatchError
from lora_training.patching import adhoc
from tests.helpers import git
from tests.patching.conftest import Tree, diff_bytes, tree_of
from tests.patching.kill import survives, without_space

FILES = {
    "edited.py": b"one\ntwo\nthree\n",
    "lib/deleted.py": b"gone\n",
    "old name.py": b"moved\n" * 9,
    "tool": b"#!/bin/sh\n",
    "lib/deep/binary": bytes(range(256)),
    "was a folder/in/f": b"f\n",
    "was a file": b"g\n",
    "lib/kept": b"behind a link, and none of the patch's business\n",
}


@pytest.fixture
def change(tmp_path: Path) -> tuple[Path, Path]:
    """A folder, and a patch that creates, edits, deletes, renames, changes a mode, a binary and a link in it."""
    root, repo = tmp_path / "tree", tmp_path / "repo"
    for name, data in FILES.items():
        (repo / name).parent.mkdir(parents=True, exist_ok=True)
        (repo / name).write_bytes(data)
    (repo / "was a link").symlink_to("lib")
    git("init", "-q", cwd=repo)
    git("add", "-A", cwd=repo)
    shutil.copytree(repo, root, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    git("commit", "-q", "-m", "before", cwd=repo)
    (repo / "edited.py").write_bytes(b"one\n2\nthree\n")
    (repo / "lib/deleted.py").unlink()
    (repo / "new folder").mkdir()
    (repo / "old name.py").rename(repo / "new folder/new.py")
    (repo / "tool").chmod(0o755)
    (repo / "lib/deep/binary").write_bytes(bytes(range(255)))
    (repo / "link").symlink_to("tool")
    (repo / "lib/empty").write_bytes(b"")
    shutil.rmtree(repo / "was a folder")
    (repo / "was a folder").write_bytes(b"now a file\n")
    for name in ("was a file", "was a link"):
        (repo / name).unlink()
        (repo / name).mkdir()
        (repo / name / "kept").write_bytes(b"now in a folder\n")
    git("add", "-A", cwd=repo)
    patch = tmp_path / "change.patch"
    patch.write_bytes(diff_bytes(repo, "--cached", "-M"))
    return root, patch


@pytest.fixture
def no_turning(change: tuple[Path, Path]) -> tuple[Path, Path]:
    """The same, but no folder takes a file's place, nor a file a folder's: to make one again takes space."""
    root, patch = change
    sections = patch.read_bytes().split(b"diff --git ")
    patch.write_bytes(b"diff --git ".join(section for section in sections if b"/was a" not in section))
    return root, patch


def _at_every_call(root: Path, act: Callable[[], object], *, torn: bool) -> list[Tree]:
    """Kill `act` at each of its calls in turn, on a fresh copy each time; the trees after the next command."""
    fresh = root.with_name("fresh")
    root.rename(fresh)
    trees = []
    at = 0
    finished = False
    while not finished:
        at += 1
        shutil.copytree(fresh, root, symlinks=True)
        finished = survives(act, at, torn=torn)
        assert at < 2000, "it never comes to its end"
        adhoc.recover(root)
        trees.append(tree_of(root, without=()))
        shutil.rmtree(root)
    assert at > 30
    fresh.rename(root)
    return trees


@pytest.mark.parametrize("torn", [False, True])
def test_killed_at_any_system_call_an_apply_is_finished_or_undone(change: tuple[Path, Path], torn: bool) -> None:
    root, patch = change
    before = tree_of(root, without=())
    trees = _at_every_call(root, lambda: adhoc.apply(root, [patch], None), torn=torn)
    adhoc.apply(root, [patch], None)
    after = tree_of(root, without=())
    assert all(tree in (before, after) for tree in trees)
    assert before in trees
    assert trees.count(after) > 1


@pytest.mark.parametrize("torn", [False, True])
def test_killed_at_any_system_call_a_revert_is_finished_or_undone(change: tuple[Path, Path], torn: bool) -> None:
    root, patch = change
    pristine = tree_of(root, without=())
    adhoc.apply(root, [patch], None)
    applied = tree_of(root, without=())
    trees = _at_every_call(root, lambda: adhoc.revert(root, [patch]), torn=torn)
    assert all(tree in (applied, pristine) for tree in trees)
    assert applied in trees
    assert trees.count(pristine) > 1


def test_killed_at_any_system_call_a_recovery_can_be_repeated(change: tuple[Path, Path]) -> None:
    root, patch = change
    assert not survives(lambda: adhoc.apply(root, [patch], None), 75)
    trees = _at_every_call_of_a_recovery(root)
    assert len({tuple(sorted(tree.items())) for tree in trees}) == 1


def _at_every_call_of_a_recovery(root: Path) -> list[Tree]:
    broken = root.with_name("broken")
    root.rename(broken)
    trees = []
    at = 0
    finished = False
    while not finished:
        at += 1
        shutil.copytree(broken, root, symlinks=True)
        finished = survives(lambda: adhoc.recover(root), at)
        adhoc.recover(root)
        trees.append(tree_of(root, without=()))
        shutil.rmtree(root)
    assert at > 5
    return trees


def test_a_disk_that_fills_up_at_any_call_leaves_all_or_nothing(no_turning: tuple[Path, Path]) -> None:
    root, patch = no_turning
    before = tree_of(root, without=())
    code, at = 5, 0
    while code != 0:
        at += 1
        code = without_space(lambda: adhoc.apply(root, [patch], None), at)
        assert code in (0, 5)
        if code:
            assert tree_of(root, without=()) == before, at
    assert at > 20


def test_a_disk_that_fills_up_while_files_and_folders_change_places_is_seen_to_by_the_next_command(
    change: tuple[Path, Path],
) -> None:
    root, patch = change
    before = tree_of(root)
    code, at, unfinished = 5, 0, 0
    while code != 0:
        at += 1
        code = without_space(lambda: adhoc.apply(root, [patch], None), at)
        assert code in (0, 5)
        if code:
            unfinished += tree_of(root) != before
            # there is space again, and any command will do
            adhoc.verify(root, [patch])
            assert tree_of(root) == before, at
            assert not list(root.glob(".lora-patch/*")), at
    assert unfinished


def test_a_file_edited_after_a_crash_is_not_overwritten(change: tuple[Path, Path]) -> None:
    root, patch = change
    at = 1
    while not (root / ".lora-patch/journal.ready").exists():
        at += 1
        assert not survives(lambda: adhoc.apply(root, [patch], None), at)
        if not (root / ".lora-patch/journal.ready").exists():
            adhoc.recover(root)
    (root / "edited.py").write_bytes(b"mine\n")
    with pytest.raises(PatchError, match=r"edited\.py was changed since"):
        adhoc.apply(root, [patch], None)
    assert (root / "edited.py").read_bytes() == b"mine\n"
