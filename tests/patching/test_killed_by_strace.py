"""The real `lora patch apply` and `revert`, killed by strace at each call with which they change the disk."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_training.patching import engine, transaction
from lora_training.workspace import Workspace
from tests.helpers import ROOT, git, repository, write
from tests.patching.conftest import HEADER, Tree, tree_of

# the system calls that change a file system; those that the command makes are tried
CHANGING = (
    "write,pwrite64,writev,openat,open,creat,fsync,fdatasync,fchmod,chmod,fchmodat,ftruncate,truncate,rename,renameat,"
    "renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,utimensat,sendfile,copy_file_range"
)
_CALL = re.compile(r"(\w+)\(")
EDIT = """\
diff --git a/edited.py b/edited.py
--- a/edited.py
+++ b/edited.py
@@ -1,2 +1,2 @@
 one
-two
+2
diff --git a/gone/gone.py b/gone/gone.py
deleted file mode 100644
--- a/gone/gone.py
+++ /dev/null
@@ -1 +0,0 @@
-gone
diff --git a/made/made.py b/made/made.py
new file mode 100644
--- /dev/null
+++ b/made/made.py
@@ -0,0 +1 @@
+made
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A checkout with one upstream and one patch, locked and not applied."""
    root = tmp_path / "checkout"
    module = '[submodule "alpha"]\n\tpath = third_party/alpha\n\turl = alpha\n'
    write(root, {".gitmodules": module, "lora_training/.keep": "", "patches/alpha/series": "0001-x.patch\n"})
    write(root, {"patches/alpha/0001-x.patch": HEADER.format(title="x") + EDIT})
    commit = repository(root / "third_party/alpha", {"edited.py": "one\ntwo\n", "gone/gone.py": "gone\n"})
    git("init", "-q", cwd=root)
    git("update-index", "--add", "--cacheinfo", f"160000,{commit},third_party/alpha", cwd=root)
    git("commit", "-q", "-m", "pin", cwd=root)
    _lora(root, "lock")
    return root


@pytest.fixture(autouse=True)
def _strace(tmp_path: Path) -> None:
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    tried = subprocess.run(["strace", "-o", tmp_path / "log", "true"], capture_output=True, check=False)
    if tried.returncode != 0:
        pytest.skip("strace may not trace here")


@pytest.mark.parametrize("verb", ["apply", "revert"])
def test_killed_at_any_call_that_changes_the_disk(home: Path, verb: str) -> None:
    if verb == "revert":
        _lora(home, "apply")
    fresh, before = home.with_name("fresh"), _tree(home)
    home.rename(fresh)
    _copy(fresh, home)
    calls = _calls(home, verb)
    after = _tree(home)
    outcomes = [_outcome(fresh, home, verb, call, number) for call, number in calls]
    assert before != after
    assert [tree for tree in outcomes if tree not in (before, after)] == []
    assert before in outcomes
    assert after in outcomes
    assert {"write", "fsync", "rename", "unlink"} <= {call for call, _ in calls}


def _calls(home: Path, verb: str) -> list[tuple[str, int]]:
    """Each call of an undisturbed command that changes the disk, and the how manieth of its name it is."""
    log = home.with_name("log")
    _lora(home, verb, under=["strace", "-o", str(log), "-e", f"trace=?{CHANGING.replace(',', ',?')}"])
    return list(_numbered(log.read_text(errors="replace")))


def _numbered(log: str) -> Iterator[tuple[str, int]]:
    seen: Counter[str] = Counter()
    for line in log.splitlines():
        match = _CALL.match(line)
        if match:
            seen[match[1]] += 1
            if not match[1].startswith("open") or "O_CREAT" in line:
                yield match[1], seen[match[1]]


def _outcome(fresh: Path, home: Path, verb: str, call: str, number: int) -> Tree:
    """The trees once a command was killed at that call and the next one has come."""
    shutil.rmtree(home)
    _copy(fresh, home)
    inject = f"inject={call}:signal=KILL:when={number}"
    _lora(home, verb, under=["strace", "-o", os.devnull, "-e", f"trace={call}", "-e", inject], code=-signal.SIGKILL)
    here = Workspace(home)
    engine.recover(here)
    assert transaction.journal.pending(transaction.root_of(here).state) is None
    return _tree(home)


def _copy(fresh: Path, home: Path) -> None:
    shutil.copytree(fresh, home, symlinks=True)


def _tree(home: Path) -> Tree:
    return tree_of(home / "third_party/alpha", without=(".git",))


def _lora(home: Path, verb: str, *, under: list[str] | None = None, code: int = 0) -> None:
    env = {**os.environ, "LORA_HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [*(under or []), sys.executable, "-m", "lora_training", "patch", verb]
    done = subprocess.run(argv, cwd=home, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
