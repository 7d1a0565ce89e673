"""`lora patch remove` undoes a patch everywhere at once; `show` finds every kind of patch."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lora_training.errors import PatchError
from lora_training.patching import engine, remove
from tests.helpers import ROOT, lora
from tests.patching.conftest import HEADER, LINES, Checkout, Tree, tree_of
from tests.patching.kill import survives, without_space
from tests.patching.test_authoring import FILLED

_OF_ANOTHER_FILE = b"""diff --git a/a.py b/a.py
--- a/a.py
+++ b/a.py
@@ -1,2 +1,2 @@
-no such line
+line
 at all
"""


def _all(site: Checkout) -> tuple[dict[str, Tree], Tree, bytes]:
    document = site.here.root / "PATCHES.md"
    return site.trees(), tree_of(site.here.patches), document.read_bytes() if document.exists() else b""


def _remove(checkout: Checkout, upstream: str, name: str) -> remove.Removed:
    target = next(target for target in checkout.targets if target.name == upstream)
    return remove.remove(checkout.here, checkout.targets, target, name)


def test_a_patch_made_by_the_steps_that_new_names_and_removed_again(site: Checkout) -> None:
    before = _all(site)
    (site.root("alpha") / "a.py").write_text((site.root("alpha") / "a.py").read_text() + "mine\n")
    made = site.lora("patch", "new", "alpha", "Mine")
    path = site.here.patches / "alpha/0003-mine.patch"
    assert "alpha/0003-mine.patch: Mine\n" in site.lora("patch", "list").out
    path.write_text(
        re.sub(r"^Removal-Condition: TODO", "Removal-Condition: later", path.read_text(), flags=re.MULTILINE)
    )
    refused = site.lora("patch", "lock")
    assert refused.code == 5
    assert "still to fill in: Author, Origin" in refused.err
    assert "Removal-Condition cannot be `later" in refused.err
    assert "Removal-Condition: upstream-commit SHA, version >= X" in refused.err
    text = path.read_text()
    for field, value in FILLED.items():
        text = re.sub(rf"^{field}: (TODO|later).*$", f"{field}: {value}", text, flags=re.MULTILINE)
    path.write_text(text)
    steps = re.findall(r"^ +lora (patch \w+)", made.out, re.MULTILINE)
    assert steps == ["patch lock", "patch docs", "patch apply", "patch verify"]
    for step in steps:
        ran = site.lora(*step.split())
        assert ran.code == 0, ran.out + ran.err
        assert "None" not in ran.out
        held = "alpha/0003-mine.patch: the tree has its changes already; `lora patch apply` takes them as applied"
        assert (held in ran.out) == (step == "patch lock")
    done = json.loads(site.lora("patch", "remove", "alpha/3", "--json").out)
    assert (done["removed"], done["files"]) == ("0003-mine.patch", ["a.py"])
    assert Path(done["kept"]).read_text() == text
    assert _all(site) == before
    assert site.lora("patch", "verify").code == 0


def test_the_first_patch_of_two_goes_and_the_second_stays(site: Checkout) -> None:
    ran = site.lora("patch", "remove", "0001-first")
    assert ran.code == 0, ran.err
    assert "0001-first.patch: removed, " in ran.out
    root = site.root("alpha")
    assert (root / "a.py").read_text() == LINES + "end\n"
    assert not (root / "new").exists()
    assert not (root / "lib/gone.py").exists()
    verified = site.lora("patch", "verify")
    assert verified.code == 0, verified.out
    assert site.lora("patch", "revert").code == 0
    assert (root / "a.py").read_text() == LINES
    assert (root / "lib/gone.py").exists()
    assert not list(root.rglob("*.orig"))


def test_a_patch_file_outside_the_series_is_noted(site: Checkout) -> None:
    (site.here.patches / "alpha/0009-left.patch").write_text("")
    verified = site.lora("patch", "verify")
    assert verified.code == 0
    assert "note: alpha/0009-left.patch is not in its series" in verified.out


def test_the_only_patch_of_a_series_takes_the_series_along(site: Checkout) -> None:
    assert site.lora("patch", "remove", "thir").code == 5
    assert site.lora("patch", "remove", "third").code == 0
    assert (site.root("beta") / "c.py").read_text() == LINES
    assert not (site.here.patches / "beta").exists()
    assert "beta" not in (site.here.patches / "patches.lock").read_text()
    assert site.lora("patch", "verify").code == 0


def test_a_patch_of_a_pristine_tree(site: Checkout) -> None:
    assert site.lora("patch", "revert").code == 0
    pristine = site.trees()
    assert site.lora("patch", "remove", "alpha/2").code == 0
    assert site.trees() == pristine
    assert site.lora("patch", "apply").code == 0
    assert site.lora("patch", "verify").code == 0


def test_a_patch_that_was_never_locked_takes_its_edits_along_and_is_kept(site: Checkout) -> None:
    before = _all(site)
    (site.root("beta") / "c.py").write_text("mine\n")
    assert site.lora("patch", "new", "beta", "Mine").code == 0
    assert site.lora("patch", "show", "beta/2").out.startswith("Description: Mine\n")
    done = json.loads(site.lora("patch", "remove", "0002-mine.patch", "--json").out)
    assert _all(site) == before
    assert "+mine" in Path(done["kept"]).read_text()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("hello", b"hello\n", "holds no diff"),
        ("0003-bad.patch", HEADER.format(title="Bad").encode() + _OF_ANOTHER_FILE, "does not fit"),
        ("0003-bad.patch", None, "cannot be read"),
    ],
)
def test_an_unlocked_patch_that_cannot_be_read_or_does_not_fit(
    site: Checkout, name: str, text: bytes | None, said: str
) -> None:
    before = _all(site)
    folder = site.here.patches / "alpha"
    listed = (folder / "series").read_text()
    # the second one is as bad, and in the way of the first one
    (folder / "series").write_text(f"{listed}{name}\n0004-worse.patch\n")
    (folder / "0004-worse.patch").write_text("worse\n")
    if text is not None:
        (folder / name).write_bytes(text)
    assert site.lora("patch", "verify").code == 1
    for bad in (name, "0004-worse.patch") if text is None or name == "hello" else ("0004-worse.patch", name):
        refused = site.lora("patch", "lock")
        assert refused.code == 5
        command = re.findall(r"`lora (patch remove \S+)`", refused.err)
        assert command == [f"patch remove alpha/{bad}"]
        assert (said if bad == name else "holds no diff") in refused.err
        removed = site.lora(*command[0].split())
        assert removed.code == 0, removed.err
    assert _all(site) == before
    assert site.lora("patch", "verify").code == 0


def test_a_damaged_patch_that_is_applied_stays_until_the_tree_is_pristine(site: Checkout) -> None:
    path = site.here.patches / "alpha/0002-second.patch"
    path.write_text("hello\n")
    before = _all(site)
    refused = site.lora("patch", "remove", "alpha/second")
    assert refused.code == 5
    assert "`lora patch revert` first" in refused.err
    assert _all(site) == before
    assert site.lora("patch", "revert").code == 0
    assert site.lora("patch", "remove", "alpha/second").code == 0
    assert site.lora("patch", "apply").code == 0
    assert site.lora("patch", "verify").code == 0


def test_a_patch_that_a_later_one_needs_stays(checkout: Checkout) -> None:
    checkout.add("beta", "fourth", {"c.py": LINES.replace("7\n", "VII\n", 1)})
    checkout.lock()
    before = _all(checkout)
    with pytest.raises(PatchError, match=r"0001-third\.patch cannot be removed: 0002-fourth\.patch, line \d+"):
        _remove(checkout, "beta", "0001-third.patch")
    assert _all(checkout) == before


def test_a_tree_with_edits_of_its_own_keeps_its_patch(site: Checkout) -> None:
    (site.root("beta") / "c.py").write_text("mine\n")
    before = _all(site)
    ran = site.lora("patch", "remove", "0001-third")
    assert ran.code == 5
    assert "c.py is at no step of the series" in ran.err
    assert "--keep-edits" in ran.err
    assert _all(site) == before


def test_a_disk_that_fills_up_at_any_moment_leaves_all_of_it_or_nothing(site: Checkout) -> None:
    before = _all(site)
    codes = []
    for at in range(1, 300, 9):
        codes.append(without_space(lambda: _remove(site, "alpha", "0001-first.patch"), at))
        if codes[-1] == 0:
            break
        assert _all(site) == before
    assert set(codes) == {0, 5}
    assert site.lora("patch", "verify").code == 0


def test_killed_at_any_moment_the_next_command_undoes_it_or_finishes_it(site: Checkout) -> None:
    before = _all(site)
    for at in range(1, 300, 17):
        ended = survives(lambda: _remove(site, "alpha", "0001-first.patch"), at)
        found = engine.recover(site.here)
        if ended or (found and found.outcome == "finished"):
            break
        assert _all(site) == before
    assert not ended
    assert (site.root("alpha") / "a.py").read_text() == LINES + "end\n"
    assert site.lora("patch", "verify").code == 0


@pytest.mark.parametrize("name", ["runtime/ema", "ema"])
def test_a_runtime_patch_is_shown(name: str) -> None:
    ran = lora("patch", "show", name, cwd=ROOT)
    assert ran.code == 0
    assert ran.out.startswith("#### ema\n")
    assert "lora_training/runtime/patches/ema.py" in ran.out
    assert json.loads(lora("patch", "show", name, "--json", cwd=ROOT).out)["upstream"] == "runtime"


def test_a_part_of_a_patch_s_name_is_told_the_whole(site: Checkout) -> None:
    assert site.lora("patch", "show", "alpha/second").out.startswith("Description: second\n")
    ran = site.lora("patch", "show", "alpha/secon")
    assert ran.code == 5
    assert "did you mean `alpha/second`?" in ran.err


def test_a_number_of_two_patches_names_both(site: Checkout) -> None:
    ran = site.lora("patch", "show", "1")
    assert ran.code == 5
    assert "alpha/0001-first.patch, beta/0001-third.patch" in ran.err
    assert site.lora("patch", "show", "2").out.startswith("Description: second\n")
