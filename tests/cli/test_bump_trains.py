"""A move to another commit of the real sd-scripts: told, refused, tried by a training, made, and unmade again."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from lora_training.runtime import registry
from tests.helpers import ROOT, Ran, git, lora
from tests.patching.conftest import Tree, tree_of

pytest.importorskip("torch")
pytestmark = pytest.mark.upstream

_TRAIN = "    def train(self, args):\n"
# the patches of functions that the later commits change
_UNFIT = [
    patch for patch in registry.available().values() if "NetworkTrainer.train" in {each.name for each in patch.targets}
]
DEFAULT = {patch.name for patch in _UNFIT if patch.on_by_default}
OPTIONAL = {patch.name for patch in _UNFIT if not patch.on_by_default}


@dataclass(frozen=True)
class Clone:
    """A clone of this project with its own trees, and two later commits of sd-scripts."""

    root: Path
    later: str
    broken: str

    @property
    def tree(self) -> Path:
        return self.root / "third_party/sd-scripts"

    def lora(self, *args: str) -> Ran:
        env = {**os.environ, "LORA_HOME": str(self.root), "PYTHONPATH": str(self.root)}
        return lora(*args, cwd=self.root, env=env)

    def state(self) -> tuple[str, str, str, Tree, Tree]:
        ours = git("ls-files", "--stage", cwd=self.root)
        head, files = git("rev-parse", "HEAD", cwd=self.tree), git("ls-files", "--stage", cwd=self.tree)
        return ours, head, files, tree_of(self.tree), tree_of(self.root / "patches")


@pytest.fixture(scope="module")
def clone(sd_scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    root = tmp_path_factory.mktemp("clone") / "checkout"
    for name in git("ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines():
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    for name in ("sd-scripts", "transformers"):
        shutil.copytree(ROOT / "third_party" / name, root / "third_party" / name, symlinks=True)
    if (ROOT / ".lora/cache/smoke").is_dir():
        shutil.copytree(ROOT / ".lora/cache/smoke", root / ".lora/cache/smoke")
    git("init", "-q", cwd=root)
    git("add", "-A", "--", ".", ":!third_party/sd-scripts", ":!third_party/transformers", cwd=root)
    for line in git("ls-files", "--stage", "third_party", cwd=ROOT).splitlines():
        mode, commit, _, path = line.split()
        if mode == "160000":
            git("update-index", "--add", "--cacheinfo", f"{mode},{commit},{path}", cwd=root)
    git("commit", "-q", "-m", "as it is", cwd=root)
    tree = root / "third_party/sd-scripts"
    pin = git("rev-parse", "HEAD", cwd=tree)
    bare = Clone(root, "", "")
    assert bare.lora("patch", "revert").code == 0
    later = _commit(tree, pin, "        came_later = True  # noqa\n")
    broken = _commit(tree, pin, '        raise RuntimeError("broken at this commit")\n')
    assert bare.lora("patch", "apply").code == 0
    return Clone(root, later, broken)


def _commit(tree: Path, pin: str, line: str) -> str:
    script = tree / "train_network.py"
    text = script.read_text(encoding="utf-8")
    assert _TRAIN in text
    script.write_text(text.replace(_TRAIN, _TRAIN + line, 1), encoding="utf-8")
    git("commit", "-q", "-a", "-m", "later", cwd=tree)
    commit = git("rev-parse", "HEAD", cwd=tree)
    git("checkout", "-q", "--detach", pin, cwd=tree)
    return commit


def test_the_rehearsal_tells_each_target_that_changed_and_what_to_do(clone: Clone) -> None:
    before = clone.state()
    ran = clone.lora("upstream", "bump", "sd-scripts", clone.later, "--json")
    report = json.loads(ran.out)
    assert {row["patch"] for row in report["runtime"] if row["on_by_default"]} == DEFAULT
    assert {row["patch"] for row in report["runtime"] if not row["on_by_default"]} == OPTIONAL
    for row in report["runtime"]:
        assert (row["target"], row["file"]) == ("NetworkTrainer.train", "train_network.py")
        assert f"--without {row['patch']}" in row["mend"] or not row["on_by_default"]
    assert clone.state() == before


def test_it_is_not_accepted_while_a_patch_that_is_on_by_default_does_not_fit(clone: Clone) -> None:
    before = clone.state()
    without = [word for name in sorted(DEFAULT - {"nan-guard"}) for word in ("--without", name)]
    ran = clone.lora("upstream", "bump", "sd-scripts", clone.later, "--accept", *without)
    assert ran.code == 5
    assert "do not fit there: nan-guard\n" in ran.err
    assert "--without nan-guard" in ran.err
    assert clone.state() == before


def test_a_name_that_no_patch_has_is_a_wrong_command(clone: Clone) -> None:
    ran = clone.lora("upstream", "bump", "sd-scripts", clone.later, "--without", "nan-gard")
    assert ran.code == 2
    assert "nan-guard" in ran.err


def _all_out() -> list[str]:
    return [word for name in sorted(DEFAULT) for word in ("--without", name)]


def test_a_commit_that_cannot_train_is_not_accepted(clone: Clone) -> None:
    before = clone.state()
    ran = clone.lora("upstream", "bump", "sd-scripts", clone.broken, "--accept", *_all_out())
    assert ran.code == 6
    assert "nothing was moved" in ran.err
    assert "broken at this commit" in ran.err
    assert clone.state() == before
    assert clone.lora("patch", "verify").code == 0


def test_it_trains_after_the_move_and_after_the_way_back(clone: Clone) -> None:
    before = clone.state()
    ran = clone.lora("upstream", "bump", "sd-scripts", clone.later, "--accept", *_all_out())
    assert ran.code == 0, ran.err
    assert git("rev-parse", "HEAD", cwd=clone.tree) == clone.later
    verified = clone.lora("patch", "verify")
    assert (verified.code, "they fit" in verified.out) == (0, False)
    document = (clone.root / "PATCHES.md").read_text(encoding="utf-8")
    assert document.count("- Taken out by `lora upstream bump`") == len(DEFAULT | OPTIONAL)
    dry = clone.lora("train", "configs/smoke.toml", "--dry-run")
    assert (dry.code, "nan-guard" in dry.out) == (0, False), dry.err
    asked = clone.lora("config", "check", "configs/smoke.toml", "--set", "runtime.ema=true")
    assert "taken out of this checkout" in asked.out + asked.err
    _go_back(clone, ran)
    assert clone.state() == before
    assert git("status", "--porcelain", cwd=clone.root) == ""
    assert clone.lora("patch", "verify").code == 0
    assert "nan-guard" in clone.lora("train", "configs/smoke.toml", "--dry-run").out


def test_a_patch_that_was_taken_out_and_fits_is_named_with_what_brings_it_back(clone: Clone) -> None:
    """As after the patch file was removed that it did not fit."""
    out = clone.root / "patches/runtime.without"
    out.write_text("dataset-loss\n", encoding="utf-8")
    said = "taken out, but they fit: dataset-loss; `lora upstream bump sd-scripts HEAD --accept` brings them back\n"
    for command in (["patch", "verify"], ["doctor"]):
        assert said in clone.lora(*command).out
    out.unlink()


def test_a_patch_of_ones_own_is_the_first_cause_named_where_it_changes_a_target(clone: Clone) -> None:
    before = clone.state()
    script = clone.tree / "train_network.py"
    script.write_text(script.read_text(encoding="utf-8").replace(_TRAIN, f"{_TRAIN}        mine = 1\n", 1), "utf-8")
    assert clone.lora("patch", "new", "sd-scripts", "Mine").code == 0
    made = clone.root / "patches/sd-scripts/0002-mine.patch"
    text = made.read_text(encoding="utf-8")
    for field, value in (("Origin", "vendor"), ("Forwarded", "no"), ("Removal-Condition", "version >= 99")):
        text = re.sub(f"^{field}: TODO.*$", f"{field}: {value}", text, flags=re.MULTILINE)
    made.write_text(
        re.sub("^(Author|Bug|Reason|Verification): TODO.*$", r"\1: none", text, flags=re.MULTILINE), "utf-8"
    )
    for verb in ("lock", "docs", "apply"):
        ran = clone.lora("patch", verb)
        assert ran.code == 0, ran.err
    verified = clone.lora("patch", "verify")
    assert verified.code == 1
    assert "NetworkTrainer.train in " in verified.out
    assert "  mend: where a patch of your own changed it, adapt the code and the digests" in verified.out
    assert clone.lora("patch", "remove", "sd-scripts/2").code == 0
    assert clone.state() == before


def _go_back(clone: Clone, ran: Ran) -> None:
    for line in ran.out.partition("to go back")[2].splitlines()[1:]:
        words = line.split()
        if words[0] == "lora":
            assert clone.lora(*words[1:]).code == 0
        else:
            git(*words[1:], cwd=clone.root)
