"""A series carried over to another commit of its upstream."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from lora_training.cli import run
from lora_training.patching import engine
from tests.helpers import Ran, commit, git, lora
from tests.patching.conftest import Checkout, tree_of
from tests.patching.kill import count, survives

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
    (checkout.here.root / ".gitignore").write_text("/.lora/\n")
    (checkout.here.root / "PATCHES.md").write_text("")
    monkeypatch.setenv("LORA_HOME", str(checkout.here.root))
    return checkout


def _commit(site: Checkout) -> None:
    """Commit everything, as a bump requires."""
    root = site.here.root
    git("add", "-A", "--", ".", ":!third_party", cwd=root)
    git("commit", "-q", "-m", "as it is", cwd=root)


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
    _commit(site)
    ran = _bump(site, later, "--accept")
    assert ran.code == 0, ran.err
    root = site.root("alpha")
    assert git("rev-parse", "HEAD", cwd=root) == later
    assert later in git("ls-files", "-s", "third_party/alpha", cwd=site.here.root)
    assert git("status", "--porcelain", cwd=root) == "M lib/rest.py\n M m.py"
    assert "??" not in git("status", "--porcelain", "--", "patches", "PATCHES.md", cwd=site.here.root)
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
    _commit(site)
    ran = _bump(site, later, "--accept")
    assert ran.code == 0, ran.err
    assert (site.here.patches / "alpha/series").read_text() == "0002-eight.patch\n"


def test_a_conflict_is_never_accepted(site: Checkout) -> None:
    site.add("alpha", "six", {"m.py": _edit(6)})
    site.lock()
    later = _later(site, {"m.py": None})
    _commit(site)
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


@pytest.fixture
def moving(site: Checkout) -> str:
    """A series that is in and committed, and a later commit that changes, moves and adds files; that commit."""
    site.add("alpha", "one-and-six", {"m.py": _edit(1).replace("return 6\n", "return 6 + 100\n"), "made.py": "made\n"})
    site.lock()
    later = _later(site, {**SPLIT, "lib/b.py": None, "lib/deep/new.py": "new\n"})
    engine.apply(site.here, site.targets)
    assert lora("patch", "docs", cwd=site.here.root, env=dict(os.environ)).code == 0
    _commit(site)
    return later


def test_the_way_back_is_printed_and_leads_back(site: Checkout, moving: str) -> None:
    before = _state(site)
    ran = _bump(site, moving, "--accept")
    assert ran.code == 0, ran.err
    assert _state(site) != before
    back = [line.strip() for line in ran.out.partition("to go back")[2].splitlines()[1:]]
    assert len(back) == 4
    for line in back:
        words = line.split()
        if words[0] == "lora":
            assert lora(*words[1:], cwd=site.here.root, env=dict(os.environ)).code == 0
        else:
            git(*words[1:], cwd=site.here.root)
    assert _state(site) == before


def _state(site: Checkout) -> dict[str, object]:
    """All that a move changes, as files and as git has it."""
    root, tree = site.here.root, site.root("alpha")
    return {
        "tree": tree_of(tree),
        "patches": tree_of(site.here.patches),
        "document": (root / "PATCHES.md").read_text(),
        "head": git("rev-parse", "HEAD", cwd=tree),
        "status": git("status", "--porcelain", cwd=tree),
        "files": git("ls-files", "--stage", cwd=tree),
        "ours": git("ls-files", "--stage", cwd=root),
    }


@pytest.mark.parametrize("where", ["patches/alpha/series", "PATCHES.md", "patches/new.txt"])
def test_what_is_not_committed_has_no_way_back_and_is_in_the_way(site: Checkout, moving: str, where: str) -> None:
    with (site.here.root / where).open("a") as file:
        file.write("# more\n")
    before = _state(site)
    ran = _bump(site, moving, "--accept")
    assert ran.code == 5
    assert f"not committed yet: {where}" in ran.err
    assert _state(site) == before


def test_an_edit_in_the_tree_is_in_the_way(site: Checkout, moving: str) -> None:
    (site.root("alpha") / "lib/b.py").write_text("by hand\n")
    before = _state(site)
    ran = _bump(site, moving, "--accept")
    assert ran.code == 5
    assert "local edits that no locked patch contains: lib/b.py" in ran.err
    assert _state(site) == before


def test_killed_anywhere_the_next_command_finds_it_wholly_before_or_wholly_after(site: Checkout, moving: str) -> None:
    root = site.here.root
    kept = root.with_name("kept")
    before = _state(site)
    shutil.copytree(root, kept, symlinks=True)

    def outcome(at: int) -> tuple[bool, dict[str, object]]:
        shutil.rmtree(root)
        shutil.copytree(kept, root, symlinks=True)
        survived = survives(lambda: _in_process(moving), at)
        status = lora("patch", "verify", cwd=root, env=dict(os.environ))
        assert status.code == 0, (at, status.out + status.err)
        assert not site.here.begun_bump.exists()
        return survived, _state(site)

    survived, after = outcome(10**9)
    assert survived
    assert after != before
    first, last = _writes(kept, root, moving)
    seen = []
    for at in sorted({*range(1, first, max(first // 4, 1)), *_spread(first, last, 24)}):
        survived, now = outcome(at)
        assert not survived
        assert now in (before, after), at
        seen.append(now == after)
    # from some point on it is made, and it is never unmade again
    assert seen == sorted(seen)
    assert any(seen)
    assert not all(seen)


def _spread(first: int, last: int, number: int) -> list[int]:
    return [first + (last - first) * n // number for n in range(number + 1)]


def _in_process(ref: str) -> None:
    assert run(["upstream", "bump", "alpha", ref, "--accept"]) == 0


def _writes(kept: Path, root: Path, ref: str) -> tuple[int, int]:
    """How many calls that write come before the note of the move, and how many there are in all."""
    counts = []
    for stop in (lambda path: "bump.json" in str(path), lambda _: False):
        shutil.rmtree(root)
        shutil.copytree(kept, root, symlinks=True)
        counts.append(count(lambda: _in_process(ref), stop))
    return counts[0], counts[1]


def test_what_a_killed_git_left_is_in_nobodys_way(site: Checkout, moving: str) -> None:
    for repository_ in (site.here.root, site.root("alpha")):
        (repository_ / ".git/index.lora.lock").write_text("")
        (repository_ / ".git/index.lora").write_text("cut")
    ran = _bump(site, moving, "--accept")
    assert ran.code == 0, ran.err
    assert lora("patch", "verify", cwd=site.here.root, env=dict(os.environ)).code == 0
