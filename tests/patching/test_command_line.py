"""`lora patch` from outside: exit codes, one JSON document, two at once, and disks that fail for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import Ran, lora
from tests.patching.conftest import Tree, tree_of

EDIT = "--- a/f.py\n+++ b/f.py\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n"
BAD = "--- a/f.py\n+++ b/f.py\n@@ -1,3 +1,3 @@\n one\n-nine\n+2\n three\n"


@pytest.fixture
def tree(folder: Path) -> Path:
    (folder / "f.py").write_text("one\ntwo\nthree\n")
    (folder.parent / "good.patch").write_text(EDIT)
    (folder.parent / "bad.patch").write_text(BAD.replace("f.py", "g.py"))
    return folder


def _patch(tree: Path, verb: str, *names: str, flags: tuple[str, ...] = ()) -> Ran:
    files = [word for name in names for word in ("--patch", str(tree.parent / name))]
    return lora("patch", verb, "--tree", tree, *files, *flags, cwd=tree.parent)


def test_apply_verify_and_revert_any_folder(tree: Path) -> None:
    before = tree_of(tree, without=())
    assert _patch(tree, "verify", "good.patch").code == 1
    assert _patch(tree, "apply", "good.patch").code == 0
    assert (tree / "f.py").read_text() == "one\n2\nthree\n"
    assert _patch(tree, "verify", "good.patch").code == 0
    again = _patch(tree, "apply", "good.patch")
    assert (again.code, again.out) == (0, "nothing to do\n")
    assert _patch(tree, "revert", "good.patch").code == 0
    assert tree_of(tree, without=()) == before
    assert _patch(tree, "revert", "good.patch").out == "nothing to do\n"


def test_revert_and_verify_refuse_another_strip_than_that_of_apply(tree: Path) -> None:
    strip = {number: ("--strip", str(number)) for number in range(3)}
    assert _patch(tree, "apply", "good.patch", flags=strip[1]).code == 0
    before = tree_of(tree, without=())
    for number in (0, 2):
        assert [_patch(tree, verb, "good.patch", flags=strip[number]).code for verb in ("verify", "revert")] == [1, 5]
    assert _patch(tree, "apply", "good.patch", flags=strip[0]).err.startswith("error: good.patch was applied with ")
    assert tree_of(tree, without=()) == before
    assert [_patch(tree, verb, "good.patch", flags=strip[1]).code for verb in ("verify", "revert")] == [0, 0]
    assert (tree / "f.py").read_text() == "one\ntwo\nthree\n"


def test_one_bad_patch_among_good_ones_changes_nothing(tree: Path) -> None:
    (tree / "g.py").write_text("one\ntwo\nthree\n")
    before = tree_of(tree, without=())
    ran = _patch(tree, "apply", "good.patch", "bad.patch")
    assert ran.code == 5
    assert ran.err.startswith("error: bad.patch, line 3: this hunk of g.py does not fit")
    assert "\nhint: " in ran.err
    assert tree_of(tree, without=()) == before


def test_json_is_one_document_and_nothing_else(tree: Path) -> None:
    applied = json.loads(_patch(tree, "apply", "good.patch", flags=("--json",)).out)
    assert (applied["done"], applied["patches"], applied["files"]) == ("applied", ["good.patch"], ["f.py"])
    assert json.loads(_patch(tree, "verify", "good.patch", flags=("--json",)).out)["ok"] is True
    assert json.loads(_patch(tree, "recover", flags=("--json",)).out) == {"recovered": None}


def test_only_the_files_that_are_written_are_reported(tree: Path) -> None:
    (tree / "g.py").write_text("one\ntwo\nthree\n")
    (tree.parent / "more.patch").write_text(EDIT.replace("f.py", "g.py"))
    _patch(tree, "apply", "good.patch")
    applied = json.loads(_patch(tree, "apply", "good.patch", "more.patch", flags=("--json",)).out)
    assert (applied["patches"], applied["files"]) == (["more.patch"], ["g.py"])


@pytest.mark.parametrize(
    "args",
    [
        ("patch", "apply", "--patch", "../good.patch"),
        ("patch", "apply", "--tree", "."),
        ("patch", "verify", "--strip", "1"),
        ("patch", "apply", "--tree", ".", "--patch", "../good.patch", "--strip", "99999999999999999999"),
        ("patch", "revert", "--tree", ".", "--patch", "../good.patch", "--keep-edits", "y"),
        ("patch", "apply", "sd-scripts", "--tree", ".", "--patch", "../good.patch"),
        ("patch", "revert", "sd-scripts", "--tree", ".", "--patch", "../good.patch"),
    ],
)
def test_options_that_do_not_go_together_are_a_usage_error(tree: Path, args: tuple[str, ...]) -> None:
    assert lora(*args, cwd=tree).code == 2


@pytest.mark.parametrize("missing", ["folder", "patch"])
def test_what_is_not_there_is_one_clear_error(tree: Path, missing: str) -> None:
    ran = _patch(
        tree / "no" if missing == "folder" else tree, "apply", "../good.patch" if missing == "folder" else "no"
    )
    code, words = (2, "does not exist") if missing == "patch" else (5, "is not a folder")
    assert ran.code == code
    assert words in ran.err


def test_a_later_patch_must_come_out_first(tree: Path) -> None:
    (tree.parent / "more.patch").write_text(EDIT.replace("+2", "+II").replace("-two", "-2"))
    assert _patch(tree, "apply", "good.patch").code == 0
    assert _patch(tree, "apply", "more.patch").code == 0
    assert "more.patch went in later" in _patch(tree, "revert", "good.patch").err
    assert _patch(tree, "revert", "more.patch").code == 0
    assert (tree / "f.py").read_text() == "one\n2\nthree\n"
    assert _patch(tree, "verify", "good.patch").code == 0


def test_a_changed_file_is_neither_verified_nor_reverted(tree: Path) -> None:
    _patch(tree, "apply", "good.patch")
    (tree / "f.py").write_text("mine\n")
    assert _patch(tree, "verify", "good.patch").code == 1
    assert _patch(tree, "revert", "good.patch").code == 5
    assert (tree / "f.py").read_text() == "mine\n"


def test_two_applies_at_once_do_the_work_once(tree: Path) -> None:
    argv = [sys.executable, "-m", "lora_training", "patch", "apply", "--tree", str(tree)]
    argv += ["--patch", str(tree.parent / "good.patch"), "--json"]
    running = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    said = [json.loads(process.communicate()[0])["done"] for process in running]
    assert sorted(said) == ["applied", *["unchanged"] * 5]
    assert _patch(tree, "verify", "good.patch").code == 0


def test_permissions_of_a_read_only_file_stay(tree: Path) -> None:
    (tree / "f.py").chmod(0o444)
    assert _patch(tree, "apply", "good.patch").code == 0
    assert (tree / "f.py").stat().st_mode & 0o777 == 0o444


def test_a_folder_that_may_not_be_written_is_left_as_it_is(tree: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tree.chmod(0o555)
    ran = _patch(tree, "apply", "good.patch")
    tree.chmod(0o755)
    assert ran.code == 5
    assert "everything is as it was" in ran.err


@pytest.mark.parametrize("spare", range(0, 640, 64))
def test_a_disk_that_is_really_full(small_disk: Callable[[str], Path], spare: int) -> None:
    disk = small_disk("1m")
    tree = disk / "tree"
    tree.mkdir()
    for name in ("f.py", "g.py", "h.py"):
        (tree / name).write_text("one\ntwo\nthree\n" + "x" * 100_000)
    patches = "".join(EDIT.replace("f.py", name) for name in ("f.py", "g.py", "h.py"))
    (tree.parent / "good.patch").write_text(patches)
    with (disk / "ballast").open("wb") as file:
        file.write(b"x" * (640 - spare) * 1024)
    before = tree_of(tree, without=())
    ran = _patch(tree, "apply", "good.patch")
    if ran.code == 0:
        assert _all_changed(tree_of(tree))
    else:
        assert ran.code == 5
        assert "No space left" in ran.err
        assert tree_of(tree, without=()) == before


def _all_changed(tree: Tree) -> bool:
    return all(data.startswith(b"one\n2\nthree\n") for _, data in tree.values())
