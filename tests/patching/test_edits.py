"""Local edits that no patch contains: every command reports them, and all give the same hint."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.helpers import git
from tests.patching.conftest import LINES, Checkout, tree_of

EDITED = "# by hand\n"


def _edit_outside_the_set(site: Checkout) -> Path:
    path = site.root("alpha") / "lib/b.py"
    path.write_text(EDITED)
    return path


def _foreign(tree: str, name: str):
    def make(site: Checkout) -> Path:
        path = site.root(tree) / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(EDITED)
        return path

    return make


def _remove(site: Checkout) -> Path:
    path = site.root("alpha") / "lib/b.py"
    path.unlink()
    return path


def _edit_patched(site: Checkout) -> Path:
    path = site.root("alpha") / "a.py"
    path.write_text(EDITED)
    return path


EDITS = {
    "a file that no patch touches": _edit_outside_the_set,
    "a foreign file": _foreign("alpha", "mine/new.py"),
    "a foreign file in an archive's tree": _foreign("beta", "mine/new.py"),
    "a file that was removed": _remove,
    "a patched file": _edit_patched,
}


@pytest.mark.parametrize("edit", EDITS)
def test_every_command_names_the_edit_and_the_same_cure(site: Checkout, edit: str) -> None:
    path = EDITS[edit](site)
    name = "beta" if "beta" in path.parts else "alpha"
    commands = ("patch verify", "patch status", "upstream status", "upstream sync", "patch revert")
    ran = {command: site.lora(*command.split()) for command in commands}
    assert [ran[command].code for command in ("patch verify", "patch revert")] == [1, 5]
    cures = {command: _cure(each.out + each.err, name) for command, each in ran.items()}
    if edit == "a file that was removed":
        assert [cure.partition(":")[0] for cure in cures["patch verify"]] == ["bring back what was deleted"]
    else:
        assert len(cures["patch verify"]) == 4
    assert set(map(str, cures.values())) == {str(cures["patch verify"])}
    for command, each in ran.items():
        assert path.name in each.out + each.err, command
    rows = json.loads(site.lora("upstream", "status", "--json").out)["upstreams"]
    assert {row["name"]: row["state"] for row in rows}[name] == "drifted"
    [edited] = [row["edited"] for row in rows if row["name"] == name]
    assert edited == [path.relative_to(site.root(name)).as_posix()]


def test_after_a_patch_was_made_of_an_edit_the_cure_is_to_lock_it(site: Checkout) -> None:
    _edit_patched(site)
    assert site.lora("patch", "new", "alpha", "Mine").code == 0
    for command in ("verify", "status"):
        said = site.lora("patch", command).out
        assert "-mine.patch, fill in its header, then `lora patch lock`" in said
        assert "`lora patch new" not in said


def test_a_new_patch_names_the_fields_to_fill_in_and_a_complete_one_does_not(site: Checkout) -> None:
    _edit_patched(site)
    assert "to fill in" not in site.lora("patch", "refresh", "alpha").out
    _edit_outside_the_set(site)
    said = site.lora("patch", "new", "alpha", "Läuft").out
    assert "to fill in, in its header: Author, " in said
    assert "-lauft.patch" in said


def _cure(text: str, name: str) -> list[str]:
    """The lines that name commands for this tree."""
    lines = [line.strip() for line in text.splitlines()]
    wanted = ("keep them", "make them", "add them", "throw them", "bring back")
    found = [line.removeprefix("mend: ").removeprefix("hint: ") for line in lines]
    return [line for line in found if line.startswith(wanted) and (name in line or "--keep-edits" in line)]


@pytest.mark.parametrize("edit", EDITS)
def test_the_cure_keeps_the_edits_in_a_patch_and_ends_in_a_yes(site: Checkout, tmp_path: Path, edit: str) -> None:
    before = site.trees()
    path = EDITS[edit](site)
    with_edit = site.trees()
    kept = tmp_path / "kept.patch"
    assert site.lora("patch", "revert", "--keep-edits", str(kept)).code == 0
    name = "beta" if "beta" in path.parts else "alpha"
    assert _changes(site, name) == []
    assert site.lora("patch", "apply").code == 0
    assert site.lora("patch", "verify").code == 0
    assert site.trees() == before
    # the kept patch restores the edits
    done = site.lora("patch", "apply", "--tree", str(site.root(name)), "--patch", str(kept), "--strip", "1")
    assert done.code == 0, done.err
    assert {key: node for key, node in site.trees()[name].items() if key in with_edit[name]} == with_edit[name]


def _changes(site: Checkout, name: str) -> list[str]:
    rows = json.loads(site.lora("upstream", "status", "--json").out)["upstreams"]
    return next(row["changed"] for row in rows if row["name"] == name)


def test_a_revert_that_finds_an_edit_changes_nothing(site: Checkout) -> None:
    _edit_outside_the_set(site)
    before = site.trees()
    ran = site.lora("patch", "revert")
    assert ran.code == 5
    assert "pristine" not in ran.out
    assert site.trees() == before


def test_an_edit_of_which_no_pristine_copy_is_at_hand_has_one_way_out(site: Checkout) -> None:
    tree = site.root("beta")
    marker = json.loads((tree / ".lora-upstream.json").read_text())
    (tree / "d.py").write_text("d\n")
    marker["files"]["d.py"] = "0" * 64
    (tree / ".lora-upstream.json").write_text(json.dumps(marker))
    ran = site.lora("patch", "verify")
    assert ran.code == 1
    assert re.findall("`(.*?)`", ran.out) == ["lora upstream sync beta --discard-edits", "lora patch apply"]
    before = tree_of(tree)
    assert site.lora("patch", "revert", "--keep-edits", "x.patch").code == 5
    assert tree_of(tree) == before


def test_patches_are_no_edits_that_a_sync_would_discard(site: Checkout) -> None:
    assert site.lora("patch", "apply").code == 0
    before = site.trees()
    ran = site.lora("upstream", "sync", "--discard-edits")
    assert ran.code == 0, ran.err
    assert [line.rpartition(", ")[2] for line in ran.out.splitlines()] == ["already there"] * 2
    assert site.trees() == before
    (site.root("alpha") / "lib/a.py").write_text("edited\n")
    assert "cannot bring alpha" in site.lora("upstream", "sync", "--discard-edits").err


def test_what_is_ignored_is_no_edit(site: Checkout) -> None:
    for name in ("alpha", "beta"):
        for path in ("lib/__pycache__/x.cpython-311.pyc", "lib/other.py.orig"):
            file = site.root(name) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("x")
    (site.root("alpha") / ".git/info/exclude").write_text("__pycache__\n*.orig\n")
    ran = site.lora("patch", "verify")
    assert ran.code == 0, ran.out
    assert site.lora("patch", "revert").code == 0


def test_an_edit_is_found_by_the_very_next_verify(site: Checkout) -> None:
    """No remembered answer stands in its way, however often it was asked for."""
    for _ in range(3):
        assert site.lora("patch", "verify").code == 0
    _edit_outside_the_set(site)
    assert site.lora("patch", "verify").code == 1


def test_an_edit_of_a_tree_without_its_series_becomes_no_patch_until_the_hint_has_put_it_on_top(site: Checkout) -> None:
    """Or the new patch would take back the ones before it."""
    assert site.lora("patch", "revert").code == 0
    (site.root("alpha") / "a.py").write_text(LINES.replace("15\n", "mine\n"))
    before = site.trees(), tree_of(site.here.patches)
    refused = [site.lora("patch", "new", "alpha", "Mine"), site.lora("patch", "refresh", "alpha")]
    assert [ran.code for ran in refused] == [5, 5]
    assert "alpha: the series is not applied to a.py" in refused[0].err
    assert (site.trees(), tree_of(site.here.patches)) == before
    command = re.findall("`(.*)`", refused[0].err)[0]
    for said in (refused[1].err, site.lora("patch", "status").out, site.lora("patch", "verify").out):
        assert command in said
        assert "`lora patch new" not in said
    for part in command.split(" && "):
        program, *words = shlex.split(part)
        assert program == "git" or site.lora(*words).code == 0
        if program == "git":
            git(*words, cwd=site.here.root)
    assert site.lora("patch", "new", "alpha", "Mine").code == 0
    made = (site.here.patches / "alpha/0003-mine.patch").read_text()
    assert re.findall("^[-+](?![-+]).*", made, re.MULTILINE) == ["-15", "+mine"]


def test_an_edit_of_an_archives_tree_without_its_series_has_one_way_out(site: Checkout) -> None:
    """Its pristine files are nowhere."""
    assert site.lora("patch", "revert").code == 0
    (site.root("beta") / "c.py").write_text(EDITED)
    assert site.lora("patch", "new", "beta", "Mine").code == 5
    ran = site.lora("patch", "status")
    assert re.findall("`(.*?)`", ran.out) == ["lora upstream sync beta --discard-edits", "lora patch apply"]


def test_an_edit_elsewhere_in_a_tree_without_its_series_stays_while_the_series_is_applied(site: Checkout) -> None:
    assert site.lora("patch", "revert").code == 0
    path = _edit_outside_the_set(site)
    ran = site.lora("patch", "new", "alpha", "Mine")
    assert ran.code == 5
    assert "the edits are kept: `lora patch apply`" in ran.err
    assert site.lora("patch", "apply").code == 0
    assert path.read_text() == EDITED
    assert "-mine.patch: lib/b.py\n" in site.lora("patch", "new", "alpha", "Mine").out


def test_a_patch_is_made_in_a_tree_that_another_tool_patched(site: Checkout) -> None:
    """It keeps no pristine copies, by which a patched file could be told."""
    path = site.root("alpha") / "a.py"
    path.with_name("a.py.orig").unlink()
    path.write_text(path.read_text().replace("15\n", "mine\n"))
    assert "-mine.patch: a.py\n" in site.lora("patch", "new", "alpha", "Mine").out


def test_one_patch_is_not_reverted_by_itself_and_the_hint_says_what_takes_it_out(site: Checkout) -> None:
    before = site.trees()
    for command in ("revert", "apply"):
        ran = site.lora("patch", command, "alpha/2")
        assert ran.code == 4
        assert re.findall("`(.*?)`", ran.err) == [f"lora patch {command} alpha", "lora patch remove alpha/2"]
    assert site.trees() == before
    assert "known upstreams: alpha, beta" in site.lora("patch", "revert", "alpha/7").err
    assert site.lora("patch", "remove", "alpha/2").code == 0


def test_a_refresh_under_a_later_patch_names_two_commands_that_take_the_edits(site: Checkout) -> None:
    path = site.root("alpha") / "a.py"
    path.write_text(path.read_text() + "more\n")
    ran = site.lora("patch", "refresh", "alpha", "1")
    assert ran.code == 5
    commands = [command.split()[1:] for command in re.findall("`(.*?)`", ran.err)]
    assert commands == [["patch", "refresh", "alpha", "0002-second.patch"], ["patch", "new", "alpha", "TITLE"]]
    assert [site.lora(*command).code for command in commands] == [0, 0]
