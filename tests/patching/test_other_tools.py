"""Patches as other tools, and older versions of them, write them: each is read whole, or refused with a cure."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lora_training.errors import PatchError
from lora_training.patching import adhoc
from lora_training.patching.diff import parse
from tests.helpers import git, lora
from tests.patching.conftest import tree_of
from tests.patching.test_parse import GOOD

EDIT = b"--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n a\n-b\n+B\n"
SECOND = EDIT.replace(b"/f\n", b"/g\n")
RULE = b"=" * 67 + b"\n"
SVN = b"Index: %s\n" + RULE
CVS = SVN + b"RCS file: /cvs/%s,v\nretrieving revision 1.1\ndiff -u -r1.1 %s\n"
PROPERTY = b"\nProperty changes on: f\n" + b"_" * 67 + b"\nAdded: svn:executable\n## -0,0 +1 ##\n+*\n"
PROPERTY += b"\\ No newline at end of property\n"


def _read(data: bytes) -> tuple[str, ...]:
    return parse("p", data, strip=None, exists=lambda _: True).paths


@pytest.mark.parametrize(
    "data",
    [
        EDIT + PROPERTY + SVN % b"g" + SECOND,
        SVN % b"f" + EDIT + PROPERTY + b"\n" + SVN % b"g" + SECOND + PROPERTY,
        SVN % b"h" + b"--- h\t(revision 1)\n+++ h\t(working copy)\n" + PROPERTY + EDIT + SECOND,
        CVS % (b"f", b"f", b"f") + EDIT + CVS % (b"g", b"g", b"g") + SECOND,
        EDIT + b"RCS file: /cvs/g,v\nretrieving revision 1.1\n" + SECOND,
        EDIT + b"--\n2.39.5\n\n" + SECOND + b"--\n2.39.5\n",
        EDIT + b"# HG changeset patch\n# User x\n- a point\n\n" + SECOND,
        EDIT + b"=== modified file 'g'\n" + SECOND,
        EDIT + SECOND + b"\nThat is all of it.\n  Indented, too.\n",
        EDIT + SECOND + b"That is all of it.\n",
        b"the first:\n- with a point\n" + EDIT + b"the second:\n" + SECOND,
    ],
)
def test_text_of_other_tools_between_and_after_diffs(data: bytes) -> None:
    assert _read(data) == ("f", "g")


@pytest.mark.parametrize(
    ("data", "words", "cure"),
    [
        (EDIT + b"Only in new: g\n", "belongs to no diff", "diff -ruN"),
        (b"Only in new: g\n" + EDIT, "belongs to no diff", "diff -ruN"),
        (b"Only in new: g\ndiff -ru a/f b/f\n" + EDIT, "belongs to no diff", "diff -ruN"),
        (b"diff -ruN a/empty b/empty\ndiff -ruN a/f b/f\n" + EDIT, "belongs to no diff", "empty or binary"),
        (EDIT + SVN % b"empty", "belongs to no diff", "empty or binary"),
        (SVN % b"empty" + SVN % b"f" + EDIT, "belongs to no diff", "empty or binary"),
        (SVN % b"x" + b"Cannot display: file marked as a binary type.\n\n" + EDIT, "belongs to no diff", "binary"),
        (EDIT + b"Binary files a/x and b/x differ\n", "outside any diff", "git diff --binary"),
        (EDIT + b" one more\n", "belongs to no diff", "put a line `-- `"),
        (EDIT + b"text\n-with a removed line\n", "outside any diff", "put a line `-- `"),
        (EDIT + b"junk\n c\n+d\n", "outside any diff", "too few lines"),
        (EDIT + b"--\n+d\n", "outside any diff", "too few lines"),
        (b"diff --git a/x b/x\nnew file mode 100644\nindex 0..1\nodd\n" + EDIT, "belongs to no diff", "get it again"),
        (b"diff --git a/x b/x\nold mode 100644\nnew mode \n", "`new mode` line without a value", "get it again"),
        (b"diff --git a/x b/x\nnew file mode 160000\nindex 0..1\n", "is a submodule", "in its own repository"),
        (b"diff --git a/x b/x\nnew file mode 100600\n", "100600 is nothing", "100644 or 100755"),
        (EDIT + b"Submodule x 1234567..89abcde:\n  > a commit\n", "outside any diff", "in its own repository"),
        (b"Submodule x 1234567..89abcde (rewind):\n" + EDIT, "outside any diff", "in its own repository"),
        (b"*** f\n--- f\n***************\n", "outside any diff", "diff -u"),
    ],
)
def test_a_patch_that_would_lose_something_is_refused_with_its_own_cure(data: bytes, words: str, cure: str) -> None:
    with pytest.raises(PatchError, match=words) as caught:
        _read(data)
    assert cure in str(caught.value.hint)


def test_a_mode_of_early_git_is_todays(folder: Path) -> None:
    (folder / "f").write_text("a\nb\n")
    patch = folder.parent / "p.patch"
    patch.write_bytes(b"diff --git a/f b/f\nindex 1234567..89abcde 100664\n" + EDIT)
    adhoc.apply(folder, [patch], None)
    assert (folder / "f").read_text() == "a\nB\n"


@pytest.mark.parametrize("time", ["1970-01-01 00:00:00 +0000", "1970-01-01 01:00:00.000000000 +0100"])
@pytest.mark.parametrize("second", ["0", "1"])
def test_only_the_exact_epoch_means_that_a_file_is_not_there(folder: Path, time: str, second: str) -> None:
    """An empty file one second after the epoch, as everything in /nix/store, is one that is there."""
    (folder / "f").write_text("")
    stamp = time.replace(":00 ", f":0{second} ").replace(":00.", f":0{second}.")
    patch = folder.parent / "p.patch"
    patch.write_text(f"--- a/f\t{stamp}\n+++ b/f\t2026-01-01 00:00:00 +0000\n@@ -0,0 +1 @@\n+x\n")
    back = folder.parent / "back.patch"
    back.write_text(f"--- a/f\t2026-01-01 00:00:00 +0000\n+++ b/f\t{stamp}\n@@ -1 +0,0 @@\n-x\n")
    if second == "0":
        with pytest.raises(PatchError, match="is there already"):
            adhoc.apply(folder, [patch], None)
        (folder / "f").unlink()
    adhoc.apply(folder, [patch], None)
    assert (folder / "f").read_text() == "x\n"
    adhoc.apply(folder, [back], None)
    assert (folder / "f").exists() == (second == "1")


def test_a_file_of_the_epoch_that_is_edited_is_there(folder: Path) -> None:
    (folder / "f").write_text("a\nb\n")
    patch = folder.parent / "p.patch"
    patch.write_bytes(EDIT.replace(b"/f\n", b"/f\t1970-01-01 00:00:00 +0000\n"))
    adhoc.apply(folder, [patch], None)
    assert (folder / "f").read_text() == "a\nB\n"


def test_a_git_diff_of_two_folders(folder: Path) -> None:
    for name, text in (("pre", "a\nb\n"), ("post", "a\nB\n")):
        (folder.parent / name / "sub").mkdir(parents=True)
        (folder.parent / name / "sub/f").write_text(text)
    (folder.parent / "post/new").write_text("n\n")
    (folder.parent / "pre/gone").write_text("g\n")
    argv = ["git", "diff", "--no-index", "pre", "post"]
    diff = subprocess.run(argv, cwd=folder.parent, check=False, capture_output=True).stdout
    patch = folder.parent / "p.patch"
    patch.write_bytes(diff)
    (folder.parent / "pre").rename(folder / "tree")
    assert lora("patch", "apply", "--tree", folder / "tree", "--patch", patch, cwd=folder).code == 0
    assert tree_of(folder / "tree") == tree_of(folder.parent / "post")
    with pytest.raises(PatchError, match="does not name one file") as caught:
        parse("p", diff)
    assert "--strip 2" in str(caught.value.hint)


def test_a_git_diff_of_two_files_takes_the_name_that_it_is_given(folder: Path) -> None:
    (folder / "f").write_text("a\nb\n")
    diff = b"diff --git a/pre b/post\nindex 1234567..89abcde 100644\n" + EDIT.replace(b"a/f", b"a/pre").replace(
        b"b/f", b"b/post"
    )
    patch = folder.parent / "p.patch"
    patch.write_bytes(diff)
    refused = lora("patch", "apply", "--tree", folder, "--patch", patch, cwd=folder)
    assert refused.code == 5
    assert "does not name one file: post and pre" in refused.err
    assert "give its `---` and `+++` line the name of the file to patch" in refused.err
    patch.write_bytes(diff.replace(b"- a/pre", b"- a/f").replace(b"+ b/post", b"+ b/f"))
    assert lora("patch", "apply", "--tree", folder, "--patch", patch, cwd=folder).code == 0
    assert (folder / "f").read_text() == "a\nB\n"


def test_subversions_diff_in_gits_form(folder: Path) -> None:
    (folder / "f").write_text("a\nb\n")
    (folder / "gone").write_text("g\n")
    labels = (b"\t(revision 1)\n", b"\t(working copy)\n", b"\t(nonexistent)\n")
    old, new, none = labels
    patch = folder.parent / "p.patch"
    patch.write_bytes(
        SVN % b"f"
        + b"diff --git a/f b/f\n--- a/f"
        + old
        + b"+++ b/f"
        + new
        + EDIT.split(b"\n", 2)[2]
        + SVN % b"new"
        + b"diff --git a/new b/new\nnew file mode 100755\n"
        + b"--- /dev/null"
        + none
        + b"+++ b/new"
        + new
        + b"@@ -0,0 +1 @@\n+n\n"
        + SVN % b"gone"
        + b"diff --git a/gone b/gone\ndeleted file mode 100644\n"
        + b"--- a/gone"
        + old
        + b"+++ /dev/null"
        + none
        + b"@@ -1 +0,0 @@\n-g\n"
    )
    assert lora("patch", "apply", "--tree", folder, "--patch", patch, cwd=folder).code == 0
    assert tree_of(folder) == {"f": ("0o644", b"a\nB\n"), "new": ("0o755", b"n\n")}


def test_git_log_with_its_patches(tmp_path: Path) -> None:
    git("init", "-q", cwd=tmp_path)
    for text in ("a\n", "b\n", "c\n"):
        (tmp_path / "f").write_text(text)
        git("add", "f", cwd=tmp_path)
        git("commit", "-q", "-m", f"Make it {text}\n- a point\n+ another", cwd=tmp_path)
    argv = ["git", "log", "-p", "--reverse", "--decorate"]
    log = subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True).stdout
    assert [change.action for change in parse("p", log).changes] == ["create", "modify", "modify"]


@pytest.mark.parametrize(
    "data", [EDIT, b"diff --git a/f b/f\n" + EDIT, b"diff --git a/f b/f\nrename from f\nrename to g\n"]
)
def test_stripping_too_much_is_said(data: bytes) -> None:
    with pytest.raises(PatchError, match="has no 3 folders to strip") as caught:
        parse("p", data, strip=3)
    assert "smaller --strip" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "hunk", "words"),
    [
        ("a\nb\nc\n", "@@ -1,2 +1,2 @@\n a\n-b\n+B\n", "only at the end of the file, and its lines are at line 1"),
        ("0\na\nb\n", "@@ -1,2 +1,2 @@\n-a\n+A\n b\n", "only at the start of the file, and its lines are at line 2"),
    ],
)
def test_a_hunk_without_context_names_the_end_where_alone_it_fits(
    folder: Path, text: str, hunk: str, words: str
) -> None:
    (folder / "f").write_text(text)
    patch = folder.parent / "p.patch"
    patch.write_text(f"--- a/f\n+++ b/f\n{hunk}")
    ran = lora("patch", "apply", "--tree", folder, "--patch", patch, cwd=folder)
    assert ran.code == 5
    assert words in ran.err
    assert "diff -U3" in ran.err


def test_a_patch_file_that_cannot_be_read_is_a_usage_error(folder: Path) -> None:
    for name in ("missing", "tree"):
        ran = lora("patch", "apply", "--tree", folder, "--patch", folder.parent / name, cwd=folder)
        assert ran.code == 2
        assert name in ran.err


def test_the_mail_of_a_careless_editor_is_read() -> None:
    assert _read(GOOD.replace(b"-- \n", b"--\n")) == ("a.py",)
