"""Patches that leave the tree or hide their effect: refused, and nothing is written anywhere."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lora_training.errors import PatchError
from lora_training.patching import adhoc
from tests.helpers import lora
from tests.patching.conftest import Checkout, tree_of

NEW = "--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+x\n"
GIT_NEW = "diff --git a/{name} b/{name}\nnew file mode 100644\n" + NEW
LINK = GIT_NEW.replace("100644", "120000").replace("+x\n", "+{to}\n\\ No newline at end of file\n")
EDIT = "--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n-real\n+x\n"
GIT_EDIT = "diff --git a/{name} b/{name}\n" + EDIT

NAMES = [
    "../out",
    "a/../../out",
    "a/../b",
    "./../out",
    ".git/hooks/post-checkout",
    "lib/.git/config",
    ".GIT/config",
    ".Git",
    ".git./config",
    ".git /config",
    ".git::$INDEX_ALLOCATION/config",
    "git~1/config",
    "GIT~2/config",
    ".g\u200cit/config",
    ".lora-patch/applied.json",
    ".LORA-PATCH/x",
    "aux",
    "lib/con.py",
    "NUL.txt",
    "com1",
    "lib/LPT9.x.y",
    "aux .py",
    "C:/Windows/x",
    "c:x",
    "a\\..\\..\\out",
    "\\\\server\\share",
]


def _refused(folder: Path, patch: bytes | str, strip: int | None = None) -> str:
    file = folder.parent / "hostile.patch"
    file.write_bytes(patch.encode() if isinstance(patch, str) else patch)
    before, around = tree_of(folder, without=()), sorted(folder.parent.iterdir())
    with pytest.raises(PatchError) as caught:
        adhoc.apply(folder, [file], strip)
    assert tree_of(folder, without=()) == before
    assert sorted(folder.parent.iterdir()) == around
    return caught.value.message


@pytest.mark.parametrize("form", [NEW, GIT_NEW, EDIT, GIT_EDIT])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_no_patch_may_have(folder: Path, name: str, form: str) -> None:
    (folder.parent / "out").write_text("real\n")
    (folder / "a").mkdir()
    assert "the name" in _refused(folder, form.format(name=name), 1)


@pytest.mark.parametrize(
    "form", ["--- /etc/x\n+++ /etc/x\n@@ -1 +1 @@\n-a\n+b\n", "diff --git /etc/x /etc/x\nnew file mode 100644\n"]
)
@pytest.mark.parametrize("strip", [None, 0, 1])
def test_an_absolute_name(folder: Path, form: str, strip: int | None) -> None:
    assert "absolute" in _refused(folder, form, strip)


@pytest.mark.parametrize("key", ["rename", "copy"])
@pytest.mark.parametrize(
    "ends", [("../out", "here"), ("real", "../out"), ("real", "/elsewhere/out"), ("real", ".git/x")]
)
def test_a_rename_or_copy_across_the_border(folder: Path, key: str, ends: tuple[str, str]) -> None:
    (folder / "real").write_text("real\n")
    (folder.parent / "out").write_text("real\n")
    old, new = ends
    patch = f"diff --git a/{old} b/{new}\nsimilarity index 100%\n{key} from {old}\n{key} to {new}\n"
    _refused(folder, patch)


def test_quoting_hides_nothing(folder: Path) -> None:
    name = "\\056\\056/out"
    assert "leaves the tree" in _refused(folder, f'--- /dev/null\n+++ "b/{name}"\n@@ -0,0 +1 @@\n+x\n', 1)
    assert "zero byte" in _refused(folder, '--- /dev/null\n+++ "b/x\\000y"\n@@ -0,0 +1 @@\n+x\n', 1)


def test_nothing_is_written_through_a_link_in_the_tree(folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "f").write_text("real\n")
    (folder / "link").symlink_to(outside)
    (folder / "file").symlink_to(outside / "f")
    assert "symbolic link" in _refused(folder, NEW.format(name="link/new"), 1)
    assert "symbolic link" in _refused(folder, EDIT.format(name="link/f"), 1)
    assert "symbolic link" in _refused(folder, EDIT.format(name="file"), 1)
    assert "symbolic link" in _refused(folder, GIT_EDIT.format(name="file"), 1)
    assert (outside / "f").read_text() == "real\n"


def test_nothing_is_written_through_a_link_that_the_patch_itself_makes(folder: Path) -> None:
    (folder / "lib").mkdir()
    link = LINK.format(name="link", to="lib")
    assert "link is a folder" in _refused(folder, link + GIT_NEW.format(name="link/new"))
    assert "symbolic link" in _refused(folder, GIT_NEW.format(name="link/new") + link)


def test_nothing_is_written_through_a_link_that_an_earlier_patch_makes(folder: Path) -> None:
    (folder / "lib").mkdir()
    first, second = folder.parent / "1.patch", folder.parent / "2.patch"
    first.write_text(LINK.format(name="link", to="lib"))
    second.write_text(GIT_NEW.format(name="link/new"))
    with pytest.raises(PatchError, match="symbolic link"):
        adhoc.apply(folder, [first, second], None)
    assert list(folder.iterdir()) == [folder / "lib"]


@pytest.mark.parametrize("to", ["/etc", "..", "../x", "lib/../../x"])
def test_a_link_out_of_the_tree(folder: Path, to: str) -> None:
    assert "out of the tree" in _refused(folder, LINK.format(name="link", to=to))


@pytest.mark.parametrize("to", ["sub/l/../out/f", "lib/..", "lib/../x", "../tree/x/../y", "./a/../b", "../../out"])
def test_a_link_that_another_link_could_lead_out_of_the_tree(folder: Path, to: str) -> None:
    first = LINK.format(name="sub/l", to="..")
    assert "out of the tree" in _refused(folder, first + LINK.format(name="l2", to=to))


@pytest.mark.parametrize(
    "to", [".git/config", ".GIT/config", "lib/git~1", "../lib/.git", ".lora-patch/x", "c:x", "NUL"]
)
def test_a_link_to_a_name_that_no_patch_may_have(folder: Path, to: str) -> None:
    assert "point at a name that" in _refused(folder, LINK.format(name="lib/link", to=to))


@pytest.mark.parametrize("to", ["theirs/passwd", "theirs", "lib/deep/f", "lib/back/f", "repo/config", "loop"])
def test_a_link_that_leads_out_by_a_link_in_the_tree(folder: Path, to: str) -> None:
    (folder / "lib").mkdir()
    (folder / "theirs").symlink_to("/etc")
    (folder / "lib/deep").symlink_to("../theirs/x")
    (folder / "lib/back").symlink_to("../../out")
    (folder / "repo").symlink_to(".git")
    (folder / "loop").symlink_to("loop")
    assert "by another link" in _refused(folder, LINK.format(name="link", to=to))


def test_a_chain_of_links_from_two_patches_that_leads_out_by_a_link_in_the_tree(folder: Path) -> None:
    (folder / "lib").mkdir()
    (folder / "lib/theirs").symlink_to("/etc")
    first, second = folder.parent / "1.patch", folder.parent / "2.patch"
    first.write_text(LINK.format(name="l1", to="l2/theirs"))
    second.write_text(LINK.format(name="l2", to="lib"))
    adhoc.apply(folder, [first], None)
    before = tree_of(folder, without=())
    with pytest.raises(PatchError, match="l1 would lead out of the tree"):
        adhoc.apply(folder, [second], None)
    assert tree_of(folder, without=()) == before


def test_a_link_from_a_series_that_leads_out_by_a_link_in_the_tree_is_not_locked(checkout: Checkout) -> None:
    (checkout.root("beta") / "theirs").symlink_to("/etc")
    checkout.add_diff("beta", "link", LINK.format(name="link", to="theirs/passwd").encode())
    with pytest.raises(PatchError, match="by another link"):
        checkout.lock()


def test_links_that_stay_in_the_tree_by_way_of_others_are_fine(folder: Path) -> None:
    (folder / "lib").mkdir()
    (folder / "lib/old").symlink_to("../real/../real")
    file = folder.parent / "p.patch"
    file.write_text(
        "".join(LINK.format(name=name, to=to) for name, to in [("a", "lib/old/f"), ("x/b", "../a"), ("c/d", "..")])
    )
    adhoc.apply(folder, [file], None)
    assert (folder / "x/b").readlink() == Path("../a")


def test_a_link_out_of_the_tree_is_one_sentence_on_the_command_line(folder: Path) -> None:
    file = folder.parent / "p.patch"
    file.write_text(LINK.format(name="sub/l", to="..") + LINK.format(name="l2", to="sub/l/../out/f"))
    ran = lora("patch", "apply", "--tree", folder, "--patch", file, cwd=folder)
    assert (ran.code, len(ran.err.splitlines())) == (5, 2)
    assert ran.err.startswith("error: p.patch, line 8: l2: the symbolic link l2 could point out of the tree")
    assert not list(folder.iterdir())


def test_a_link_within_the_tree_is_fine(folder: Path) -> None:
    file = folder.parent / "p.patch"
    file.write_text(LINK.format(name="lib/link", to="../real"))
    adhoc.apply(folder, [file], None)
    assert (folder / "lib/link").readlink() == Path("../real")


def test_a_pipe_in_the_place_of_a_file(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert "neither a file nor" in _refused_unread(folder, EDIT.format(name="pipe"))


def _refused_unread(folder: Path, patch: str) -> str:
    file = folder.parent / "hostile.patch"
    file.write_text(patch)
    with pytest.raises(PatchError) as caught:
        adhoc.apply(folder, [file], 1)
    return caught.value.message


def test_a_folder_in_the_place_of_a_file(folder: Path) -> None:
    (folder / "dir").mkdir()
    (folder / "dir/f").write_text("x")
    assert "folder" in _refused(folder, EDIT.format(name="dir"), 1)
    assert "folder" in _refused(folder, NEW.format(name="dir"), 1)
    (folder / "file").write_text("x")
    assert "no folder" in _refused(folder, NEW.format(name="file/new"), 1)


@pytest.mark.parametrize(
    "patch",
    [
        "--- /dev/null\n+++ /dev/null\n@@ -0,0 +1 @@\n+x\n",
        "diff --git a/dev/null b/dev/null\n--- /dev/null\n+++ /dev/null\n@@ -1 +1 @@\n-a\n+b\n",
        "diff --git a/x b/x\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+x\n",
        "diff --git a/x b/x\ndeleted file mode 100644\n--- a/x\n+++ b/x\n@@ -1 +0,0 @@\n-real\n",
        "diff --git a/x b/x\nnew file mode 100644\n--- a/x\n+++ b/x\n@@ -0,0 +1 @@\n+x\n",
        "diff --git a/x b/x\nnew file mode 100644\ndeleted file mode 100644\n",
        "diff --git a/x b/y\n--- a/x\n+++ b/y\n@@ -1 +1 @@\n-real\n+x\n",
        "diff --git a/x b/x\n--- a/y\n+++ b/y\n@@ -1 +1 @@\n-real\n+x\n",
    ],
)
def test_dev_null_and_names_that_disagree(folder: Path, patch: str) -> None:
    (folder / "x").write_text("real\n")
    (folder / "y").write_text("real\n")
    _refused(folder, patch)


@pytest.mark.parametrize("mode", ["160000", "040000", "100600", "020666", "010644", "999999", "abc"])
def test_a_mode_that_no_file_may_have(folder: Path, mode: str) -> None:
    assert f"mode {mode}" in _refused(folder, GIT_NEW.format(name="x").replace("100644", mode))


def test_a_bomb_in_a_binary_patch_is_not_inflated(folder: Path) -> None:
    import base64
    import zlib

    packed = zlib.compress(b"\0" * (1 << 24), 9)
    rows = [packed[i : i + 52] for i in range(0, len(packed), 52)]
    lines = b"\n".join(
        bytes([len(row) + 64 if len(row) <= 26 else len(row) + 70]) + base64.b85encode(row, pad=True) for row in rows
    )
    head = b"diff --git a/x b/x\nnew file mode 100644\nindex " + b"0" * 40 + b".." + b"1" * 40 + b"\nGIT binary patch\n"
    assert "another size" in _refused(folder, head + b"literal 10\n" + lines + b"\n\n")
    assert "senseless size" in _refused(folder, head + b"literal 99999999999\n" + lines + b"\n\n")


def _journal(folder: Path, **entry: str) -> None:
    whole = {"path": "f", "before": "absent", "after": "absent", "new": "", "old": "", "moved_from": "", **entry}
    content = {"format": 1, "command": "apply", "entries": [whole], "made": [], "dropped": []}
    (folder / ".lora-patch").mkdir()
    (folder / ".lora-patch/journal.staging").write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/{abs}", "link/out"])
@pytest.mark.parametrize("key", ["path", "new", "old", "moved_from"])
@pytest.mark.parametrize("phase", ["staging", "ready", "undo"])
def test_a_journal_that_came_with_the_folder_reaches_nothing_outside(
    folder: Path, key: str, name: str, phase: str
) -> None:
    outside = folder.parent / "out"
    outside.write_text("theirs")
    (folder / "link").symlink_to(folder.parent)
    _journal(folder, **{key: name.replace("/{abs}", str(outside))})
    (folder / ".lora-patch/journal.staging").rename(folder / f".lora-patch/journal.{phase}")
    with pytest.raises(PatchError):
        adhoc.recover(folder)
    assert outside.read_text() == "theirs"


@pytest.mark.parametrize("name", ["../out", "link/out", ".git/hooks/x"])
def test_a_record_that_came_with_the_folder_reaches_nothing_outside(folder: Path, name: str) -> None:
    import hashlib

    (folder / "link").symlink_to(folder.parent)
    patch = folder.parent / "p.patch"
    patch.write_text(NEW.format(name="f"))
    state = "100644 " + hashlib.sha256(b"evil").hexdigest()
    original = folder / ".lora-patch/orig/1" / name.replace("../", "up/")
    original.parent.mkdir(parents=True)
    original.write_text("evil")
    record = {"name": "p.patch", "sha256": hashlib.sha256(patch.read_bytes()).hexdigest(), "files": {name: "absent"}}
    content = {"format": 1, "pristine": {name: state}, "patches": [record]}
    (folder / ".lora-patch/applied.json").write_text(json.dumps(content))
    around = tree_of(folder.parent)
    with pytest.raises(PatchError):
        adhoc.revert(folder, [patch])
    assert tree_of(folder.parent) == around


def test_a_header_is_never_carried_out(folder: Path) -> None:
    from lora_training.patching.conditions import parse

    for text in ("probe os.system", "probe __import__", "upstream-commit $(touch x)", "version >= `id`", "touch x"):
        with pytest.raises(PatchError, match="cannot be carried out"):
            parse("p", text)
