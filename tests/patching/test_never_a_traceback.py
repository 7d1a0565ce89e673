"""Whatever stands in the files that we read, the answer is ours: a result, or one of our errors."""

from __future__ import annotations

import copy
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from lora_training.errors import LoraError
from lora_training.patching import adhoc, docs, engine, relock, series, verify
from tests.patching.conftest import Checkout, tree_of

FILES = ["patches.lock", "alpha/series", "alpha/0001-first.patch", "beta/0001-third.patch"]
COMMANDS = [
    lambda c: engine.apply(c.here, c.targets),
    lambda c: engine.revert(c.here, c.targets),
    lambda c: verify.verify(c.here, c.targets),
    lambda c: verify.status(c.here, c.targets),
    lambda c: relock.lock(c.here, c.targets),
    lambda c: docs.render(c.here, c.targets),
    lambda c: [series.read(target.patches) for target in c.targets],
]


def _damaged(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data) + 1)
    junk = dice.choice([b"", b"\0", b"\xff", b"\n", b"---\n", b"= ", b'"', b"[", b"../", dice.randbytes(9)])
    return dice.choice([data[:at], data[:at] + junk + data[at:], data[:at] + junk + data[at + len(junk) + 3 :]])


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_of_ours(checkout: Checkout, file: str, applied: bool) -> None:
    dice = random.Random(f"{file}{applied}")
    if applied:
        engine.apply(checkout.here, checkout.targets)
    path = checkout.here.patches / file
    lock = checkout.here.patches / "patches.lock"
    whole, locked, trees = path.read_bytes(), lock.read_bytes(), checkout.trees()
    for _ in range(25):
        path.write_bytes(_damaged(whole, dice))
        for command in COMMANDS:
            try:
                command(checkout)
            except LoraError as exc:
                assert exc.message
        path.write_bytes(whole)
        lock.write_bytes(locked)
        (engine.apply if applied else engine.revert)(checkout.here, checkout.targets)
    assert checkout.trees() == trees


@pytest.mark.parametrize("file", ["applied.json", "orig/1/f"])
def test_a_damaged_record_of_an_ad_hoc_folder(folder: Path, file: str) -> None:
    dice = random.Random(file)
    (folder / "f").write_text("a\n")
    patch = folder.parent / "p.patch"
    patch.write_text("--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n")
    adhoc.apply(folder, [patch], 1)
    kept = folder.parent / "kept"
    shutil.copytree(folder, kept)
    for _ in range(60):
        path = folder / ".lora-patch" / file
        path.write_bytes(_damaged(path.read_bytes(), dice))
        for act in (adhoc.verify, adhoc.revert, lambda *args: adhoc.apply(*args, 1)):
            try:
                act(folder, [patch])
            except LoraError as exc:
                assert exc.message
        assert tree_of(folder)["f"][1] in (b"a\n", b"b\n")
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)


VALUES: list[Any] = [5, None, [], {}, [None], {"a": [None]}, "x", "../x", "\0", "\ud800", 1e999, [[[]]]]


def _other(content: Any, dice: random.Random) -> Any:
    """`content` with something else in the place of one of its values."""
    if not content or not isinstance(content, dict | list) or dice.random() < 0.2:
        return dice.choice(VALUES)
    key = dice.choice(list(content)) if isinstance(content, dict) else dice.randrange(len(content))
    changed = copy.copy(content)
    changed[key] = _other(content[key], dice)
    return changed


@pytest.mark.parametrize("file", ["applied.json", "journal.staging", "journal.ready", "journal.undo"])
def test_something_else_in_the_place_of_any_value(folder: Path, file: str) -> None:
    dice = random.Random(file)
    (folder / "d").mkdir()
    (folder / "d/f").write_text("a\n")
    patch = folder.parent / "p.patch"
    patch.write_text("--- a/d/f\n+++ b/d/f\n@@ -1 +0,0 @@\n-a\n--- /dev/null\n+++ b/n/f\n@@ -0,0 +1 @@\n+a\n")
    adhoc.apply(folder, [patch], 1)
    if file != "applied.json":
        entry = {"path": "d/f", "before": "absent", "after": "absent", "new": "", "old": "", "moved_from": ""}
        plan = {"format": 1, "command": "x", "entries": [entry], "made": ["n"], "dropped": ["d"], "modes": {"d": 448}}
        (folder / ".lora-patch" / file).write_text(json.dumps(plan))
    kept = shutil.copytree(folder, folder.parent / "kept")
    for _ in range(150):
        path = folder / ".lora-patch" / file
        path.write_text(json.dumps(_other(json.loads(path.read_bytes()), dice)))
        for act in (adhoc.verify, adhoc.revert, lambda *args: adhoc.apply(*args, 1)):
            try:
                act(folder, [patch])
            except LoraError as exc:
                assert exc.message
        assert sorted(folder.parent.iterdir()) == [kept, patch, folder]
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
