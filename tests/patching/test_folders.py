"""Folders that patches make or empty are as before after a revert: there or not, with their modes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_training.patching import adhoc, engine
from tests.helpers import lora
from tests.patching.conftest import Checkout, Tree, tree_of
from tests.patching.kill import survives

NEW = "diff --git a/{0} b/{0}\nnew file mode 100644\n--- /dev/null\n+++ b/{0}\n@@ -0,0 +1 @@\n+x\n"
GONE = "diff --git a/{0} b/{0}\ndeleted file mode 100644\n--- a/{0}\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"


def _folder(path: Path, mode: int = 0o755) -> Path:
    path.mkdir(parents=True)
    path.chmod(mode)
    return path


def _file(path: Path, mode: int = 0o755) -> None:
    (_folder(path.parent, mode) / path.name).write_text("x\n")


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file in an empty folder": (lambda t: _folder(t / "d", 0o700), NEW.format("d/f")),
    "a file below an empty folder": (lambda t: _folder(t / "d", 0o2775), NEW.format("d/new/er/f")),
    "a folder that gets empty": (lambda t: _file(t / "d/f", 0o700), GONE.format("d/f")),
    "one with setgid": (lambda t: _file(t / "d/f", 0o2770), GONE.format("d/f")),
    "one in another": (lambda t: (_file(t / "d/e/f", 0o1777), (t / "d").chmod(0o750)), GONE.format("d/e/f")),
    "one with an empty one in it": (lambda t: (_file(t / "d/f", 0o711), _folder(t / "d/e", 0o700)), GONE.format("d/f")),
    "a file in its place": (lambda t: _file(t / "d/f", 0o700), GONE.format("d/f") + NEW.format("d")),
    "a file in an empty one's place": (lambda t: _folder(t / "d", 0o700), NEW.format("d")),
    "a file in the place of empty ones": (lambda t: _folder(t / "d/e/g", 0o700), NEW.format("d")),
    "a rename out of it": (
        lambda t: _file(t / "d/f", 0o700),
        "diff --git a/d/f b/g/f\nsimilarity index 100%\nrename from d/f\nrename to g/f\n",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_apply_and_revert_give_back_every_folder(case: str, folder: Path) -> None:
    make, text = CASES[case]
    make(folder)
    before = tree_of(folder, without=())
    patch = folder.with_name("p.patch")
    patch.write_text(text)
    for verb in ("apply", "revert"):
        ran = lora("patch", verb, "--tree", folder, "--patch", patch, cwd=folder)
        assert ran.code == 0, ran.err
    assert tree_of(folder, without=()) == before


def _killed(act: Callable[[], object], root: Path) -> list[Tree]:
    """The trees after `act` was killed at each of its calls in turn and the next command came."""
    fresh = root.rename(root.with_name("fresh"))
    trees: list[Tree] = []
    ended = False
    while not ended:
        shutil.copytree(fresh, root, symlinks=True)
        ended = survives(act, len(trees) + 1)
        adhoc.recover(root)
        trees.append(tree_of(root, without=()))
        shutil.rmtree(root)
    fresh.rename(root)
    return trees


@pytest.mark.parametrize(
    "case", ["a file below an empty folder", "one in another", "a file in the place of empty ones"]
)
def test_killed_at_any_system_call_the_folders_are_as_before_or_as_after(case: str, folder: Path) -> None:
    make, text = CASES[case]
    make(folder)
    patch = folder.with_name("p.patch")
    patch.write_text(text)
    before = tree_of(folder, without=())
    applied = _killed(lambda: adhoc.apply(folder, [patch], None), folder)
    adhoc.apply(folder, [patch], None)
    after = tree_of(folder, without=())
    reverted = _killed(lambda: adhoc.revert(folder, [patch]), folder)
    for trees, begin, end in ((applied, before, after), (reverted, after, before)):
        assert all(tree in (begin, end) for tree in trees)
        assert (trees[0], trees[-1]) == (begin, end)
        assert trees.count(end) > 1


def test_patches_that_are_taken_out_one_by_one_leave_the_folders_of_each_step(folder: Path) -> None:
    _file(folder / "d/f", 0o700)
    _folder(folder / "empty", 0o711)
    texts = [
        GONE.format("d/f") + NEW.format("empty/f"),
        NEW.format("d/g"),
        GONE.format("empty/f"),
        NEW.format("empty/g/h"),
    ]
    patches = [folder.with_name(f"{n}.patch") for n in range(len(texts))]
    steps = []
    for patch, text in zip(patches, texts, strict=True):
        patch.write_text(text)
        steps.append(tree_of(folder))
        adhoc.apply(folder, [patch], None)
    for patch, step in zip(patches[::-1], steps[::-1], strict=True):
        adhoc.revert(folder, [patch])
        assert tree_of(folder) == step
    adhoc.apply(folder, patches, None)
    adhoc.revert(folder, patches)
    assert tree_of(folder, without=()) == steps[0]


def test_a_record_of_an_older_version_is_reverted(folder: Path) -> None:
    _folder(folder / "d", 0o700)
    (folder / "e").write_text("x\n")
    patch = folder.with_name("p.patch")
    patch.write_text(NEW.format("new/f") + GONE.format("e"))
    before = tree_of(folder, without=())
    adhoc.apply(folder, [patch], None)
    record = folder / ".lora-patch/applied.json"
    content = json.loads(record.read_bytes())
    del content["patches"][0]["folders"]
    record.write_text(json.dumps(content))
    adhoc.revert(folder, [patch])
    assert tree_of(folder, without=()) == before


def test_a_journal_of_an_older_version_is_recovered(folder: Path) -> None:
    _file(folder / "d/f")
    patch = folder.with_name("p.patch")
    patch.write_text(GONE.format("d/f") + NEW.format("new/f"))
    before = tree_of(folder, without=())
    outcomes = set()
    for at in range(1, 60):
        survives(lambda: adhoc.apply(folder, [patch], None), at)
        for journal in (folder / ".lora-patch").glob("journal.[rsu]*"):
            content = json.loads(journal.read_bytes())
            del content["modes"]
            journal.write_text(json.dumps(content))
        done = adhoc.recover(folder)
        outcomes.add(done and done.outcome)
        adhoc.revert(folder, [patch])
        assert tree_of(folder, without=()) == before
    assert {"finished", "undone"} <= outcomes


@pytest.mark.parametrize("folders", [5, {"../x": None}, {"d": "x"}, {"d": -1}, {"d": 1 << 20}, {".git": 448}, [None]])
def test_a_record_with_folders_that_make_no_sense_is_refused(folders: object, folder: Path) -> None:
    patch = folder.with_name("p.patch")
    patch.write_text(NEW.format("new/f"))
    adhoc.apply(folder, [patch], None)
    record = folder / ".lora-patch/applied.json"
    content = json.loads(record.read_bytes())
    content["patches"][0]["folders"] = folders
    record.write_text(json.dumps(content))
    ran = lora("patch", "revert", "--tree", folder, "--patch", patch, cwd=folder)
    assert (ran.code, len(ran.err.splitlines())) == (5, 2)
    assert (folder / "new/f").exists()


def test_an_empty_folder_in_an_upstream_is_there_after_a_revert(checkout: Checkout) -> None:
    _folder(checkout.root("alpha") / "new", 0o700)
    before = checkout.trees()
    for _ in range(2):
        engine.apply(checkout.here, checkout.targets)
        engine.apply(checkout.here, checkout.targets)
        assert (checkout.root("alpha") / "new/n.py").exists()
        engine.revert(checkout.here, checkout.targets)
        assert checkout.trees() == before
    (checkout.root("alpha") / "new").rmdir()
    engine.apply(checkout.here, checkout.targets)
    engine.revert(checkout.here, checkout.targets)
    assert not (checkout.root("alpha") / "new").exists()


@pytest.mark.parametrize("known", [None, "[]", '{"alpha": 5}', "nonsense"])
def test_without_its_notes_a_revert_of_an_upstream_takes_away_the_folders_that_it_empties(
    known: str | None, checkout: Checkout
) -> None:
    before = checkout.trees()
    engine.apply(checkout.here, checkout.targets)
    notes = checkout.here.state / "patching/folders.json"
    notes.unlink() if known is None else notes.write_text(known)
    engine.revert(checkout.here, checkout.targets)
    assert checkout.trees() == before
