"""Random trees against `git apply` and `patch --posix`, and patches with harm done to them.

    python -m benchmarks.patches [--trees N] [--mutated N] [--seed N] [--limit S]

Each tree is random, as is the change to it. Half of the changes are written by `git diff --no-index` and applied by
`git apply` too, the others by `diff -ruN` and `patch --posix` (which makes no files: where the change does, `patch`).
On the tree that the change was made of, `lora` must do what the other does, and a revert must give every byte back. On
a tree that was edited since, `lora` must refuse and leave the tree as it was, or do what the other does. A mutated
patch must be refused with a hint, or applied and reverted, in the limit of seconds and with no other exception; where
the other tool's result is another, that is counted.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from lora_training.errors import PatchError
from lora_training.patching import adhoc
from tests.mutations import blurred
from tests.patching.conftest import Tree, tree_of
from tests.patching.random_trees import Maker

_MEMORY = Path("/dev/shm")  # noqa: S108 - a private folder is made below it
_LINES = (
    *(
        b"",
        b"\n",
        b"--\n",
        b"-- \n",
        b"--- a/x\n",
        b"+++ b/x\n",
        b"@@ -1 +1 @@\n",
        b"@@ -0,0 +1 @@\n",
        b"@@ -1 +0,0 @@\n",
    ),
    *(b"+x\n", b"-x\n", b" x\n", b"\\ No newline at end of file\n", b"diff --git a/x b/x\n", b"new file mode 100644\n"),
    *(b"new file mode 160000\n", b"old mode 100644\n", b"rename from x\n", b"rename to ../x\n", b"index 1..2 100664\n"),
    *(b"Only in x: y\n", b"Index: x\n", b"Property changes on: x\n", b"GIT binary patch\n", b"literal 9\n", b"junk\n"),
    *(b"--- /dev/null\n", b"+++ /dev/null\n", b"deleted file mode 100644\n", b"@@ -1,999999999 +1,999999999 @@\n"),
)
_EPOCH = re.compile(rb"^(---|\+\+\+) .*\t1970-01-01 00:00:00\.0+ \+0000\n\Z")
_ENVIRONMENT = {**os.environ, "TZ": "UTC", "LC_ALL": "C"}
_SHOWN = 5


class Failed(Exception):
    """A result that is wrong for every patch."""


class Pair:
    """A random tree, `before`, and a patch file of a random change to it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.seed, self.by_git = seed, seed % 2 == 0
        self.folder, self.before, self.patch = folder, folder / "before", folder / "change.patch"
        after = folder / "after"
        self.before.mkdir()
        Maker(self.before, seed, plain=not self.by_git).fill()
        shutil.copytree(self.before, after, symlinks=True)
        maker = Maker(after, seed + 1_000_000, plain=not self.by_git)
        if self.by_git:
            maker.change()
        else:
            for act in (maker.edit, maker.edit, maker.edit, maker.create, maker.delete):
                act()
        git = ["git", "diff", "--no-index", "--binary", "--full-index", "-M", "-C", "before", "after"]
        argv = git if self.by_git else ["diff", "-ruN", "--text", "before", "after"]
        data = subprocess.run(argv, cwd=folder, check=False, capture_output=True, env=_ENVIRONMENT).stdout
        self.patch.write_bytes(data if self.by_git else _for_posix(data))
        self.strip = 2 if self.by_git else 1

    def copy(self, name: str) -> Path:
        """Return a copy of the tree."""
        return Path(shutil.copytree(self.before, self.folder / name, symlinks=True))

    def other(self, tree: Path) -> bool:
        """Apply the patch with the other tool; return whether it says that it did."""
        data = self.patch.read_bytes()
        posix = () if b"--- /dev/null\n" in data else ("--posix",)
        patch = ("patch", *posix, "--remove-empty-files", "--no-backup-if-mismatch", "--force", "--silent", "--fuzz=0")
        argv = [*(("git", "apply") if self.by_git else patch), f"-p{self.strip}"]
        done = subprocess.run(argv, cwd=tree, input=data, check=False, capture_output=True)
        return done.returncode == 0

    def result(self, tree: Path) -> Tree:
        """The files of a tree, to compare; `patch --posix -E` also removes a file that was only emptied."""
        found = tree_of(tree)
        if self.by_git:
            return found
        return {path: node for path, node in found.items() if node[1]}


def _for_posix(diff: bytes) -> bytes:
    """Return `diff` as POSIX has it: no epoch, and no line for an empty file, which `lora` refuses."""
    lines = diff.splitlines(keepends=True)
    kept = zip(lines, [*lines, b""][1:], strict=True)
    found = (line for line, following in kept if not line.startswith(b"diff -ruN") or following[:4] == b"--- ")
    return b"".join(_EPOCH.sub(rb"\1 /dev/null\n", line) for line in found)


def check_tree(folder: Path, seed: int) -> str:
    """Make one pair and apply it as it is, or to a tree that was edited since; return the result in a word."""
    pair = Pair(folder, seed)
    if not pair.patch.read_bytes():
        return "no change"
    edited = seed % 4 > 1
    if edited:
        Maker(pair.before, seed + 2_000_000, plain=not pair.by_git).edit()
    return _compare(pair, must=not edited)


def _compare(pair: Pair, *, must: bool) -> str:
    ours, original = pair.copy("ours"), tree_of(pair.before)
    theirs = pair.copy("theirs")
    succeeded = pair.other(theirs)
    try:
        adhoc.apply(ours, [pair.patch], pair.strip)
    except PatchError as exc:
        if tree_of(ours, without=()) != original or not exc.hint:
            raise Failed("refused, and left something behind or gave no hint") from exc
        if "would lead out of the tree" in exc.message:
            return "refused: a link"
        if must and succeeded:
            raise Failed(f"refused what the other tool applies: {exc.message}") from exc
        return "refused by both" if not succeeded else "refused"
    same = succeeded and pair.result(ours) == pair.result(theirs)
    adhoc.revert(ours, [pair.patch])
    if tree_of(ours, without=()) != original:
        raise Failed("a revert did not bring everything back")
    return "the same" if same else "refused by the other" if not succeeded else "another result"


def check_mutated(folder: Path, seed: int) -> str:
    """Make one pair, harm its patch, and apply it."""
    pair = Pair(folder, seed)
    dice = random.Random(seed)
    data = pair.patch.read_bytes()
    for _ in range(dice.choice((1, 1, 2, 4))):
        data = _harmed(data, dice)
    pair.patch.write_bytes(data)
    return _compare(pair, must=False)


def _harmed(data: bytes, dice: random.Random) -> bytes:
    if dice.random() < 0.3:
        return blurred(dice, data)
    lines = data.splitlines(keepends=True) or [b""]
    heads = [number for number, line in enumerate(lines) if not line.startswith((b" ", b"+", b"-"))] or [0]
    at = dice.choice(heads) if dice.random() < 0.5 else dice.randrange(len(lines))
    line = lines[at]
    lines[at : at + 1] = dice.choice(([], [line, line], [line, dice.choice(_LINES)], [dice.choice(_LINES)], [line[1:]]))
    return b"".join(lines)


def run(check: Callable[[Path, int], str], count: int, seed: int, limit: float) -> bool:
    """Run `check` for that many seeds; print the results, the slowest answer and the failures."""
    found: Counter[str] = Counter()
    failures: list[str] = []
    slowest = (0.0, 0)
    begun = time.monotonic()
    for number in range(seed, seed + count):
        with tempfile.TemporaryDirectory(dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None) as scratch:
            start = time.process_time()
            try:
                word = check(Path(scratch), number)
            except Exception as exc:  # noqa: BLE001 - every one is a finding
                word = "FAILED"
                failures.append(f"seed {number}: {type(exc).__name__}: {exc}")
            slowest = max(slowest, (time.process_time() - start, number))
        found[word if check is check_mutated else f"{'patch' if number % 2 else 'git'}: {word}"] += 1
    print(f"{check.__name__}: {count} from seed {seed}, {time.monotonic() - begun:.0f} s")
    print("".join(f"  {amount:6} {word}\n" for word, amount in sorted(found.items())), end="")
    print(f"  the slowest took {slowest[0]:.2f} s of the processor (seed {slowest[1]}, limit {limit} s)")
    print("".join(f"  {line}\n" for line in failures[:_SHOWN]), end="", flush=True)
    return not failures and slowest[0] <= limit


def main() -> int:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", type=int, default=10_000)
    parser.add_argument("--mutated", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=2.0, metavar="S")
    args = parser.parse_args()
    good = [
        run(check_tree, args.trees, args.seed, args.limit),
        run(check_mutated, args.mutated, args.seed, args.limit),
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
