"""Which file a header names: as git reads it, or refused."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lora_training.errors import PatchError
from lora_training.patching import adhoc
from tests.helpers import Ran, lora
from tests.patching.conftest import Checkout, Tree, tree_of

STAMP = "2010-08-18 20:13:31.484002255 -0500"
PLAIN_NEW = "--- /dev/null{end}\n+++ {name}{end}\n@@ -0,0 +1 @@\n+x\n"
PLAIN_EDIT = "--- {name}{end}\n+++ {name}{end}\n@@ -1 +1 @@\n-real\n+x\n"
GIT_NEW = "diff --git {name} {name}\nnew file mode 100644\n" + PLAIN_NEW
GIT_EDIT = "diff --git {name} {name}\n" + PLAIN_EDIT
FORMS = [PLAIN_NEW, PLAIN_EDIT, GIT_NEW, GIT_EDIT]

NAMES = ["b/f", "b/d/f", "b/d/new", "f", "b/my file", "b//f", "b/d//f", "b//d/f", "b///f", "./f", "b/./f", "b/f/"]
NAMES += ["../f", "b/../f", '"b/f"', '"b/my file"', '"b/t\\tab"', '"b/\\303\\274"', '"b/f', '"b/f" x', "b/t\tab"]
NAMES += ["b/f ", "b /f", "b/f b/f"]
TIMES = [gap + time for gap in (" ", "   ", "\t", "\t ", " \t") for time in (STAMP, "2010-08-18", "10-08-18 20:13:31")]
TIMES += ["\t28 Mar 2003 07:51:38 -0000\t1.2", "\t2003/03/28 07:51:38\t1.1.2.3", "\t(.../trunk)\t(revision 5)"]
TIMES += ["\t(revision 5)", "\t", "\t\t", "\tg\t2010-08-18", "\tg", f" {STAMP} ", f" {STAMP}\t", f"\tx {STAMP}"]
TIMES += [" 2010-08-18T20:13:31Z", " Wed Aug 18 20:13:31 2010", " 2010-08-18 20:13", " 2010/08/18 20:13:31"]
TIMES += [" 2010-08-18 20:13:31 +01:00"]


def _tree(root: Path) -> Path:
    (root / "d").mkdir(parents=True)
    for name in ("f", "d/f", "my file", "t\tab", "ü", "f b/f", "b/f", "b/d/f", "b/my file", "b/t\tab"):
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_text("real\n")
    return root


def _gits(tree: Path, patch: Path, strip: int) -> Tree | None:
    """The tree after `git apply`, None when it refuses."""
    copy = tree.with_name("gits")
    shutil.copytree(tree, copy)
    done = subprocess.run(["git", "apply", f"-p{strip}", str(patch)], cwd=copy, check=False, capture_output=True)
    found = tree_of(copy)
    shutil.rmtree(copy)
    return None if done.returncode else found


@pytest.mark.parametrize("strip", [0, 1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_every_name_and_time_is_taken_as_git_takes_it_or_refused(form: str, strip: int, folder: Path) -> None:
    shutil.rmtree(folder)
    _tree(folder)
    before, patch, agreed = tree_of(folder, without=()), folder.with_name("p.patch"), 0
    for name, end in itertools.chain(itertools.product(NAMES, [""]), itertools.product(["b/f", "b/new"], TIMES)):
        patch.write_text(form.format(name=name, end=end), encoding="utf-8")
        gits = _gits(folder, patch, strip)
        try:
            adhoc.apply(folder, [patch], strip)
        except PatchError:
            assert tree_of(folder, without=()) == before
            continue
        agreed += 1
        assert tree_of(folder) == gits, (name, end)
        adhoc.revert(folder, [patch])
        assert tree_of(folder, without=()) == before, (name, end)
    assert agreed > (0 if strip == 2 else 4), agreed


def _apply(folder: Path, patch: str, *flags: str) -> Ran:
    file = folder.with_name("p.patch")
    file.write_text(patch, encoding="utf-8")
    return lora("patch", "apply", "--tree", folder, "--patch", file, *flags, cwd=folder)


def test_a_time_after_spaces_is_no_part_of_a_new_files_name(folder: Path) -> None:
    assert _apply(folder, f"--- /dev/null\n+++ b/new.txt {STAMP}\n@@ -0,0 +1 @@\n+x\n").code == 0
    assert [path.name for path in folder.iterdir() if path.name != ".lora-patch"] == ["new.txt"]


@pytest.mark.parametrize("labels", ["28 Mar 2003 07:51:38 -0000\t1.2", "2003/03/28 07:51:38\t1.1.2.3"])
def test_the_date_and_revision_of_cvs_are_no_part_of_the_name(labels: str, folder: Path) -> None:
    (folder / "f").write_text("real\n")
    assert _apply(folder, PLAIN_EDIT.format(name="f", end=f"\t{labels}"), "--strip", "0").code == 0
    assert (folder / "f").read_text() == "x\n"


def test_a_name_that_goes_on_after_a_tab_is_refused(folder: Path) -> None:
    (folder / "f").write_text("real\n")
    ran = _apply(folder, PLAIN_EDIT.format(name="a/f", end="\tg\t2010-08-18 20:13:31"))
    assert (ran.code, ran.err.splitlines()[0]) == (5, "error: p.patch, line 1: where the name ends is not clear")
    assert tree_of(folder, without=())["f"][1] == b"real\n"


@pytest.mark.parametrize(
    ("patch", "flags"),
    [
        (GIT_NEW.format(name="a//abs/x", end=""), ()),
        (GIT_NEW.format(name="a//abs/x", end=""), ("--strip", "2")),
        (GIT_EDIT.format(name="a//f", end=""), ()),
        (PLAIN_EDIT.format(name="a//f", end=""), ()),
        (PLAIN_EDIT.format(name="a//f", end=""), ("--strip", "1")),
        ("--- f\n+++ ../g\n@@ -1 +1 @@\n-real\n+x\n", ()),
        ("--- f\n+++ ../g\n@@ -1 +1 @@\n-real\n+x\n", ("--strip", "0")),
        ("--- f\n+++ ../g\n@@ -1 +1 @@\n-real\n+x\n", ("--strip", "1")),
        ("--- f\t1970-01-01 00:00:00 +0000\n+++ ../g\n@@ -0,0 +1 @@\n+x\n", ("--strip", "0")),
        ("--- /dev/null\n+++ /etc/x\n@@ -0,0 +1 @@\n+x\n", ("--strip", "1")),
        ("--- f\n+++ /f\n@@ -1 +1 @@\n-real\n+x\n", ("--strip", "1")),
    ],
)
def test_names_that_lead_out_of_the_tree_on_one_side_or_after_stripping(
    patch: str, flags: tuple[str, ...], folder: Path
) -> None:
    (folder / "f").write_text("real\n")
    before = tree_of(folder.parent)
    ran = _apply(folder, patch, *flags)
    (folder.parent / "p.patch").unlink()
    assert ran.code == 5
    assert ran.err.startswith("error: ")
    assert tree_of(folder.parent) == before


@pytest.mark.parametrize("form", [PLAIN_NEW, GIT_NEW])
@pytest.mark.parametrize(
    "name", ["d/" * 3000 + "f", "x" * 256, "d/" + "ü" * 128, "\U0001f600" * 1024, "x" * 1_000_000, " " * 100_000]
)
def test_a_name_longer_than_any_file_system_has_is_refused(name: str, form: str, folder: Path) -> None:
    ran = _apply(folder, form.format(name=f"b/{name}", end=""))
    assert ran.code == 5
    assert " bytes" in ran.err
    assert len(ran.err) < 1000
    assert not list(folder.iterdir())


def test_a_part_of_the_greatest_length_in_deep_folders_goes_in_and_out(folder: Path) -> None:
    name = "ü" * 127 + "/" + "d/" * 400 + "f"
    ran = _apply(folder, GIT_NEW.format(name=f"b/{name}", end=""))
    assert ran.code == 0, ran.err
    assert (folder / name).read_text() == "x\n"
    adhoc.revert(folder, [folder.with_name("p.patch")])
    assert not list(folder.iterdir())


LOCALES = {"ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "utf-8": {"LC_ALL": "C.UTF-8"}}
STRANGE = ("\u00e9.py", "\udcff.py")
ESCAPED = ("\\303\\251", "\\377")


@pytest.mark.parametrize(("first", "second"), [("ascii", "utf-8"), ("utf-8", "ascii")])
def test_a_patch_of_names_beyond_ascii_applied_in_one_locale_is_verified_and_reverted_in_another(
    first: str, second: str, folder: Path
) -> None:
    edits = (GIT_EDIT.format(name=f'"b/{escaped}.py"', end="") for escaped in ESCAPED)
    (folder.parent / "p.patch").write_text("".join(edits))
    for name in STRANGE:
        (folder / name).write_text("real\n")
    before = tree_of(folder, without=())
    for verb, locale in (("apply", first), ("verify", second), ("revert", second)):
        argv = ("patch", verb, "--tree", folder, "--patch", folder.parent / "p.patch")
        ran = lora(*argv, cwd=folder.parent, env={**os.environ, **LOCALES[locale]})
        assert ran.code == 0, ran.err
    assert tree_of(folder, without=()) == before


def test_a_lock_written_in_one_locale_is_that_of_any_other(site: Checkout) -> None:
    news = (GIT_NEW.format(name=f'"b/{escaped}.py"', end="") for escaped in ESCAPED)
    site.add_diff("alpha", "strange", "".join(news).encode())
    locks = []
    for locale in LOCALES.values():
        (site.here.patches / "patches.lock").unlink()
        ran = lora("patch", "lock", cwd=site.here.root, env={**os.environ, **locale})
        assert ran.code == 0, ran.err
        locks.append((site.here.patches / "patches.lock").read_bytes())
    assert locks[0] == locks[1]
    assert b'"\xc3\xa9.py"' in locks[0]
    assert b'"%FF.py"' in locks[0]
