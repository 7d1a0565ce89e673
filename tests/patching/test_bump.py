"""A series carried over to another commit of its upstream."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lora_training.patching import engine
from tests.helpers import Ran, commit, git, lora
from tests.patching.conftest import Checkout, tree_of

BODY = [f"def function_{n}():\n    return {n}\n\n\n" for n in range(12)]
MODULE = "".join(BODY)


def _edit(number: int) -> str:
    return MODULE.replace(f"return {number}\n", f"return {number} + 100\n")


@pytest.fixture
def site(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """`alpha` has a module of twelve functions, and a patch on some of them; the pin is in a real superproject."""
    root = checkout.root("alpha")
    for path in (checkout.here.patches / "alpha").iterdir():
        path.unlink()
    checkout.commits["alpha"] = commit(root, {"m.py": MODULE})
    git("init", "-q", cwd=checkout.here.root)
    del checkout.commits["beta"]
    (checkout.here.root / ".gitmodules").write_text('[submodule "a"]\n\tpath = third_party/alpha\n\turl = x\n')
    pin = f"160000,{checkout.commits['alpha']},third_party/alpha"
    git("update-index", "--add", "--cacheinfo", pin, cwd=checkout.here.root)
    monkeypatch.setenv("LORA_HOME", str(checkout.here.root))
    return checkout


def _later(site: Checkout, files: dict[str, str | None]) -> str:
    """A commit of upstream's that comes after the pin; the tree stays where it was."""
    root = site.root("alpha")
    for path in [path for path, text in files.items() if text is None]:
        (root / path).unlink()
    later = commit(root, {path: text for path, text in files.items() if text is not None})
    git("checkout", "-q", site.commits["alpha"], cwd=root)
    return later


def _bump(site: Checkout, ref: str, *args: str) -> Ran:
    return lora("upstream", "bump", "alpha", ref, *args, cwd=site.here.root, env=dict(os.environ))


def _fates(site: Checkout, ref: str) -> list[tuple[str, str, int]]:
    ran = _bump(site, ref, "--json")
    assert ran.code == 0, ran.err
    hunks = [hunk for patch in json.loads(ran.out)["patches"] for hunk in patch["hunks"]]
    return [(hunk["fate"], hunk["place"], hunk["offset"]) for hunk in hunks]


NEXT_TO = MODULE.replace("def function_7():", "def function_7(x):")
SPLIT = {"m.py": "".join(BODY[:3]), "lib/rest.py": "import os\n\n\n" + "".join(BODY[3:])}


@pytest.mark.parametrize(
    ("files", "fate"),
    [
        ({"other.py": "x"}, ("clean", "m.py", 0)),
        ({"m.py": "import os\n" + MODULE}, ("moved", "m.py", 1)),
        ({"m.py": NEXT_TO}, ("merged", "m.py", 0)),
        ({"m.py": _edit(6)}, ("already upstream", "m.py", 0)),
        (SPLIT, ("elsewhere", "lib/rest.py", 0)),
        ({"m.py": None, "lib/all.py": MODULE}, ("elsewhere", "lib/all.py", 0)),
        ({"m.py": None, "lib/all.py": _edit(6)}, ("already upstream", "lib/all.py", 0)),
        ({"m.py": None}, ("conflict", "m.py", 0)),
        ({"m.py": MODULE.replace("return 6\n", "return -6\n")}, ("conflict", "m.py", 0)),
        ({"m.py": None, "a.py": MODULE, "b.py": MODULE}, ("conflict", "m.py", 0)),
    ],
)
def test_what_becomes_of_a_hunk(site: Checkout, files: dict[str, str | None], fate: tuple[str, str, int]) -> None:
    site.add("alpha", "six", {"m.py": _edit(6)})
    later = _later(site, files)
    before = tree_of(site.root("alpha")), tree_of(site.here.patches)
    assert _fates(site, later) == [fate]
    assert (tree_of(site.root("alpha")), tree_of(site.here.patches)) == before
    assert git("worktree", "list", cwd=site.root("alpha")).count("\n") == 0


def test_accept_moves_tree_pin_patches_lock_and_document(site: Checkout) -> None:
    site.add("alpha", "one-and-six", {"m.py": _edit(1).replace("return 6\n", "return 6 + 100\n")})
    site.add(
        "alpha",
        "eight",
        {"m.py": _edit(1).replace("return 6\n", "return 6 + 100\n").replace("return 8\n", "return 88\n")},
    )
    site.lock()
    engine.apply(site.here, site.targets)
    later = _later_while_applied(site)
    ran = _bump(site, later, "--accept")
    assert ran.code == 0, ran.err
    root = site.root("alpha")
    assert git("rev-parse", "HEAD", cwd=root) == later
    assert later in git("ls-files", "-s", "third_party/alpha", cwd=site.here.root)
    assert lora("patch", "apply", cwd=site.here.root, env=dict(os.environ)).code == 0
    assert "return 1 + 100\n" in (root / "m.py").read_text()
    rest = (root / "lib/rest.py").read_text()
    assert "return 6 + 100\n" in rest
    assert "return 88\n" in rest
    verified = lora("patch", "verify", cwd=site.here.root, env=dict(os.environ))
    assert verified.code == 0, verified.out


def _later_while_applied(site: Checkout) -> str:
    engine.revert(site.here, site.targets)
    later = _later(site, dict(SPLIT))
    engine.apply(site.here, site.targets)
    return later


def test_a_patch_that_upstream_has_taken_is_dropped(site: Checkout) -> None:
    site.add("alpha", "six", {"m.py": _edit(6)})
    site.add("alpha", "eight", {"m.py": _edit(6).replace("return 8\n", "return 88\n")})
    site.lock()
    later = _later(site, {"m.py": _edit(6)})
    assert _bump(site, later, "--accept").code == 0
    assert (site.here.patches / "alpha/series").read_text() == "0002-eight.patch\n"


def test_a_conflict_is_never_accepted(site: Checkout) -> None:
    site.add("alpha", "six", {"m.py": _edit(6)})
    site.lock()
    later = _later(site, {"m.py": None})
    before = tree_of(site.here.root, without=(".git",))
    ran = _bump(site, later, "--accept")
    assert ran.code == 5
    assert "hunks without a place there: 1" in ran.err
    assert _without_git(tree_of(site.here.root, without=(".git",))) == _without_git(before)


def _without_git(tree: dict[str, tuple[str, bytes]]) -> dict[str, tuple[str, bytes]]:
    return {path: node for path, node in tree.items() if "/.git" not in path and not path.startswith(".lora")}


@pytest.mark.parametrize("ref", ["nowhere", "--upload-pack=x", "f" * 40])
def test_a_ref_that_nobody_knows_is_refused(site: Checkout, ref: str) -> None:
    ran = _bump(site, "--", ref) if ref.startswith("-") else _bump(site, ref)
    assert ran.code in (2, 4)
    assert "Traceback" not in ran.err


def test_a_folder_that_is_no_repository_cannot_be_bumped(site: Checkout, tmp_path: Path) -> None:
    (site.root("alpha") / ".git").rename(tmp_path / "git")
    ran = _bump(site, "main")
    assert ran.code == 4
    assert "not a git checkout" in ran.err
