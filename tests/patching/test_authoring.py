"""Patches made of edits, and edits that survive a revert."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_training.errors import PatchError
from lora_training.patching import authoring, engine, transaction
from lora_training.patching.model import sha256
from lora_training.patching.series import Target
from tests.helpers import git
from tests.patching.conftest import LINES, Checkout, Tree, tree_of
from tests.patching.kill import survives

FILLED = {"Author": "A", "Origin": "vendor", "Bug": "none", "Forwarded": "no", "Reason": "r", "Verification": "true"}
FILLED["Removal-Condition"] = "version >= 9"


def _target(checkout: Checkout, name: str) -> Target:
    return next(target for target in checkout.targets if target.name == name)


def _fill(path: Path) -> None:
    text = path.read_text()
    for field, value in FILLED.items():
        text = re.sub(rf"^{field}: TODO.*$", f"{field}: {value}", text, flags=re.MULTILINE)
    path.write_text(text)


@pytest.mark.parametrize(("name", "file"), [("alpha", "lib/b.py"), ("beta", "c.py")])
def test_a_new_patch_holds_the_edits_and_locks(checkout: Checkout, name: str, file: str) -> None:
    engine.apply(checkout.here, checkout.targets)
    path = checkout.root(name) / file
    path.write_text(path.read_text() + "edit\n")
    (checkout.root(name) / "made.py").write_text("made\n")
    before = checkout.trees()
    written = authoring.new(checkout.here, _target(checkout, name), "Make it better!", (file, "made.py"))
    assert written.files == (file, "made.py")
    assert written.path.name.endswith("-make-it-better.patch")
    with pytest.raises(PatchError, match="still to fill in: Author, Origin, "):
        checkout.lock()
    _fill(written.path)
    checkout.lock()
    engine.apply(checkout.here, checkout.targets)
    assert {**before[name], **checkout.trees()[name]} == checkout.trees()[name]
    engine.revert(checkout.here, checkout.targets)
    assert not (checkout.root(name) / "made.py").exists()


def test_a_new_patch_without_edits_is_an_empty_template(checkout: Checkout) -> None:
    engine.apply(checkout.here, checkout.targets)
    written = authoring.new(checkout.here, _target(checkout, "beta"), "later")
    assert written.files == ()
    with pytest.raises(PatchError, match="holds no diff"):
        checkout.lock()
    (checkout.root("beta") / "c.py").write_text("all new\n")
    assert authoring.refresh(checkout.here, _target(checkout, "beta")).files == ("c.py",)
    _fill(written.path)
    checkout.lock()


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("Last-Update", "2026-13-01", "YYYY-MM-DD"),
        ("Forwarded", "perhaps", "not-needed"),
        ("Origin", "me", "vendor"),
        ("Bug", "#12", "the address"),
        ("Removal-Condition", "one day", "version >= X"),
    ],
)
def test_a_field_of_a_header_says_what_it_may_hold(checkout: Checkout, field: str, value: str, allowed: str) -> None:
    path = checkout.here.patches / "beta/0001-third.patch"
    path.write_text(re.sub(rf"^{field}: .*$", f"{field}: {value}", path.read_text(), flags=re.MULTILINE))
    with pytest.raises(PatchError, match=rf"0001-third\.patch: .*{value}") as caught:
        checkout.lock()
    assert allowed in str(caught.value.hint)


def test_refresh_takes_further_edits_into_the_last_patch(checkout: Checkout) -> None:
    engine.apply(checkout.here, checkout.targets)
    path = checkout.root("alpha") / "a.py"
    path.write_text(path.read_text() + "more\n")
    expected = path.read_text()
    written = authoring.refresh(checkout.here, _target(checkout, "alpha"))
    assert written.path.name == "0002-second.patch"
    checkout.lock()
    engine.apply(checkout.here, checkout.targets)
    engine.revert(checkout.here, checkout.targets)
    engine.apply(checkout.here, checkout.targets)
    assert path.read_text() == expected


def test_killed_at_any_moment_a_patch_is_made_and_listed_or_not_at_all(checkout: Checkout) -> None:
    engine.apply(checkout.here, checkout.targets)
    path = checkout.root("beta") / "c.py"
    path.write_text(path.read_text() + "mine\n")
    target = _target(checkout, "beta")

    def patches(*, listed: str) -> Tree:
        assert (checkout.here.patches / "beta/series").read_text().split() == listed.split()
        return tree_of(checkout.here.patches)

    before = patches(listed="0001-third.patch")
    _killed_now_and_then(checkout, lambda: authoring.new(checkout.here, target, "mine"), before)
    made = patches(listed="0001-third.patch 0002-mine.patch")
    assert b"+mine\n" in made["beta/0002-mine.patch"][1]
    path.write_text(path.read_text() + "more\n")
    _killed_now_and_then(checkout, lambda: authoring.refresh(checkout.here, target), made)
    refreshed = patches(listed="0001-third.patch 0002-mine.patch")
    assert b"+mine\n+more\n" in refreshed["beta/0002-mine.patch"][1]
    _fill(checkout.here.patches / "beta/0002-mine.patch")
    checkout.lock()


def test_a_patch_whose_making_was_interrupted_is_finished_first_and_that_is_said(
    site: Checkout,
) -> None:
    path = site.root("beta") / "c.py"
    path.write_text(path.read_text() + "mine\n")
    at, state = 1, transaction.root_of(site.here).state
    while not (state / "journal.ready").exists():
        engine.recover(site.here)
        at += 5
        assert not survives(lambda: authoring.new(site.here, _target(site, "beta"), "mine", ["c.py"]), at)
    ran = site.lora("patch", "new", "beta", "More")
    assert ran.code == 0
    assert ran.err == "note: an interrupted `lora patch new` was finished\n"
    assert "0003-more.patch: empty\n" in ran.out
    assert b"+mine\n" in (site.here.patches / "beta/0002-mine.patch").read_bytes()


def _killed_now_and_then(checkout: Checkout, act: Callable[[], object], before: Tree) -> None:
    """Kill `act` at later and later moments until a recovery finishes it; each time before, it is undone."""
    outcomes = []
    while "finished" not in outcomes:
        assert not survives(act, 1 + 5 * len(outcomes))
        found = engine.recover(checkout.here)
        outcomes.append(found.outcome if found else "not begun")
        assert (tree_of(checkout.here.patches) == before) == (outcomes[-1] != "finished")
    assert "undone" in outcomes


def test_refresh_of_a_patch_under_a_later_one_is_refused(checkout: Checkout) -> None:
    engine.apply(checkout.here, checkout.targets)
    path = checkout.root("alpha") / "a.py"
    path.write_text(path.read_text() + "more\n")
    with pytest.raises(PatchError, match=r"0001-.*edits: 0002-second\.patch comes later and touches a\.py too"):
        authoring.refresh(checkout.here, _target(checkout, "alpha"), "0001-first.patch")


def test_a_patch_is_not_made_of_a_tree_without_the_series(checkout: Checkout) -> None:
    with pytest.raises(PatchError, match=r"the series is not applied to a\.py, so"):
        authoring.new(checkout.here, _target(checkout, "alpha"), "x", ["lib/b.py"])


def test_an_edit_without_a_pristine_file_is_refused_where_there_is_no_git(checkout: Checkout) -> None:
    engine.apply(checkout.here, checkout.targets)
    (checkout.root("beta") / "d.py").write_text("edited\n")
    checkout.manifest["d.py"] = sha256(b"pristine\n")
    target = _target(checkout, "beta")
    with pytest.raises(PatchError, match=r"d\.py was edited, and its pristine content is not at hand"):
        authoring.new(checkout.here, target, "x", ["d.py"])
    (checkout.root("beta") / "d.py.orig").write_text("pristine\n")
    assert authoring.new(checkout.here, target, "x", ["d.py"]).files == ("d.py",)


def test_a_revert_keeps_the_edits_as_a_patch_that_goes_in_again(checkout: Checkout, tmp_path: Path) -> None:
    pristine = checkout.trees()
    engine.apply(checkout.here, checkout.targets)
    for file in ("a.py", "new/n.py", "lib/gone.py"):
        (checkout.root("alpha") / file).write_text("mine\n")
    edited = checkout.trees()["alpha"]
    kept = tmp_path / "kept.patch"
    engine.revert(checkout.here, checkout.targets, kept)
    assert checkout.trees() == pristine
    engine.apply(checkout.here, checkout.targets)
    git("apply", str(kept), cwd=checkout.root("alpha"))
    assert checkout.trees()["alpha"] == edited


def test_edits_in_two_trees_are_kept_apart(checkout: Checkout, tmp_path: Path) -> None:
    (checkout.root("alpha") / "a.py").write_text("mine\n")
    engine.apply(checkout.here, [checkout.targets[1]])
    (checkout.root("beta") / "c.py").write_text("mine too\n")
    engine.revert(checkout.here, checkout.targets, tmp_path / "kept.patch")
    assert sorted(path.name for path in tmp_path.glob("kept*")) == ["kept-alpha.patch", "kept-beta.patch"]
    assert (checkout.root("alpha") / "a.py").read_text() == LINES


def test_a_file_in_the_way_of_the_edits_stops_the_revert(checkout: Checkout, tmp_path: Path) -> None:
    engine.apply(checkout.here, checkout.targets)
    (checkout.root("alpha") / "a.py").write_text("mine\n")
    (tmp_path / "kept.patch").write_text("theirs")
    with pytest.raises(PatchError, match="is there already"):
        engine.revert(checkout.here, checkout.targets, tmp_path / "kept.patch")
    assert (checkout.root("alpha") / "a.py").read_text() == "mine\n"
