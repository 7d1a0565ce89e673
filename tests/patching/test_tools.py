"""The same files go through quilt, git apply and GNU patch; and GNU patch's own diffs come out the same here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lora_training.errors import PatchError
from lora_training.patching import adhoc, engine
from lora_training.workspace import Workspace
from tests.helpers import ROOT, git
from tests.patching.conftest import Checkout, tree_of
from tests.patching.random_trees import Maker


def _need(tool: str) -> str:
    found = shutil.which(tool)
    if not found:
        pytest.skip(f"{tool} is not installed")
    return found


def _run(*argv: str, cwd: Path, env: dict[str, str] | None = None, stdin: bytes = b"") -> None:
    subprocess.run(argv, cwd=cwd, check=True, capture_output=True, input=stdin, env={**os.environ, **(env or {})})


def _by_quilt(root: Path, patches: Path) -> None:
    _run(
        _need("quilt"),
        "push",
        "-a",
        cwd=root,
        env={"QUILT_PATCHES": str(patches), "QUILT_PC": str(root.parent / f"pc-{root.name}")},
    )


def _by_git(root: Path, patches: Path) -> None:
    for name in (patches / "series").read_text().split():
        git("apply", str(patches / name), cwd=root)


def _by_patch(root: Path, patches: Path) -> None:
    for name in (patches / "series").read_text().split():
        _run(
            _need("patch"), "-p1", "-s", "-E", "--no-backup-if-mismatch", cwd=root, stdin=(patches / name).read_bytes()
        )


WAYS = [_by_quilt, _by_git, _by_patch]


@pytest.mark.parametrize("way", WAYS)
def test_a_tree_that_another_tool_patched_is_applied_for_us_too(checkout: Checkout, way) -> None:
    for name in checkout.commits:
        way(checkout.root(name), checkout.here.patches / name)
    theirs = checkout.trees()
    engine.apply(checkout.here, checkout.targets)
    for name, tree in checkout.trees().items():
        assert {path: node for path, node in tree.items() if not path.endswith(".orig")} == {
            path: node for path, node in theirs[name].items() if path != "lib" or path in tree
        }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", sorted(Workspace(ROOT).upstreams))
def test_the_series_that_we_carry_goes_through_every_tool(name: str, way, tmp_path: Path) -> None:
    here = Workspace(ROOT)
    series = here.patches / name / "series"
    if not series.exists():
        pytest.skip(f"no patches for {name}")
    source = here.upstream(name).path
    root = tmp_path / "tree"
    touched = [
        line[6:]
        for path in series.parent.glob("*.patch")
        for line in path.read_text().splitlines()
        if line.startswith("--- a/")
    ]
    for path in touched:
        copy = source / f"{path}.orig"
        pristine = copy if copy.exists() else source / path
        if not pristine.exists():
            pytest.skip(f"{name} is not there: `lora upstream sync` brings it")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(pristine, root / path)
    before = tree_of(root)
    ours = tmp_path / "ours"
    shutil.copytree(root, ours)
    way(root, series.parent)
    adhoc.apply(ours, [series.parent / line for line in series.read_text().split()], None)
    assert tree_of(root) == tree_of(ours) != before


@pytest.mark.parametrize("seed", range(25))
def test_a_random_plain_diff_gives_what_gnu_patch_gives(seed: int, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    maker = Maker(before, seed, plain=True)
    maker.fill()
    shutil.copytree(before, after, symlinks=True)
    maker = Maker(after, seed + 1_000_000, plain=True)
    for _ in range(4):
        maker.edit()
    maker.create()
    maker.delete()
    diff = subprocess.run(["diff", "-ruN", "--text", "before", "after"], cwd=tmp_path, check=False, capture_output=True)
    if not diff.stdout:
        return
    patch = tmp_path / "p.patch"
    patch.write_bytes(diff.stdout)
    theirs = tmp_path / "theirs"
    shutil.copytree(before, theirs, symlinks=True)
    _run(_need("patch"), "-p1", "-s", "--no-backup-if-mismatch", cwd=theirs, stdin=diff.stdout)
    adhoc.apply(before, [patch], 1)
    assert tree_of(before) == tree_of(theirs)


def test_how_much_to_strip_is_found_out_where_that_is_certain(folder: Path) -> None:
    (folder / "lib").mkdir()
    (folder / "lib/f").write_text("a\n")
    patch = folder.parent / "p.patch"
    patch.write_text("--- x/y/lib/f\n+++ x/z/lib/f\n@@ -1 +1 @@\n-a\n+b\n")
    adhoc.apply(folder, [patch], None)
    assert (folder / "lib/f").read_text() == "b\n"
    adhoc.revert(folder, [patch])
    (folder / "f").write_text("a\n")
    with pytest.raises(PatchError, match="more than one file could be meant"):
        adhoc.apply(folder, [patch], None)
    adhoc.apply(folder, [patch], 3)
    assert (folder / "f").read_text() == "b\n"


def test_a_new_file_with_no_hint_how_much_to_strip_is_refused(folder: Path) -> None:
    patch = folder.parent / "p.patch"
    patch.write_text("--- /dev/null\n+++ x/y/f\n@@ -0,0 +1 @@\n+b\n")
    with pytest.raises(PatchError, match="nothing shows how much to strip"):
        adhoc.apply(folder, [patch], None)
