"""The remembered yes says what the commands would say, and is silent as soon as anything changed."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import time
from pathlib import Path

import pytest

from lora_training import quick
from lora_training.cli import run
from tests.helpers import ROOT, Ran, git, lora
from tests.patching.conftest import Checkout  # noqa: TC001 - pytest reads the annotations of fixtures

COMMANDS = [("patch", verb, *flag) for verb in ("apply", "verify") for flag in ((), ("--json",))]


@pytest.fixture
def site(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """A checkout that `lora` itself works on, its tree `beta` a repository too, applied and verified once."""
    root = checkout.here.root
    git("init", "-q", cwd=checkout.root("beta"))
    git("add", "-A", cwd=checkout.root("beta"))
    git("commit", "-q", "-m", "x", cwd=checkout.root("beta"))
    checkout.commits["beta"] = git("rev-parse", "HEAD", cwd=checkout.root("beta"))
    git("init", "-q", cwd=root)
    for name, commit in checkout.commits.items():
        git("update-index", "--add", "--cacheinfo", f"160000,{commit},third_party/{name}", cwd=root)
    shutil.copytree(ROOT / "patches" / "docs", root / "patches" / "docs")
    monkeypatch.setenv("LORA_HOME", str(root))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for verb in ("lock", "docs", "apply"):
        assert _lora(checkout, "patch", verb).code == 0
    _settle()
    assert _lora(checkout, "patch", "verify").code == 0
    assert all(quick.answer(list(command)) for command in COMMANDS)
    return checkout


def _settle() -> None:
    """Until the clock that files get their times from has moved on."""
    now = time.time_ns()
    while time.clock_gettime_ns(5) < now + 1_000_000:
        time.sleep(0.001)


def _lora(_checkout: Checkout, *args: str) -> Ran:
    """In this process: a hundred of them would take a minute."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = run(list(args))
    return Ran(code, out.getvalue(), "")


def test_the_program_itself_asks_it_first(site: Checkout) -> None:
    memo = site.here.root / quick.MEMO
    memo.write_bytes(memo.read_bytes().replace(b"nothing to do", b"nothing at all"))
    assert "nothing at all" in lora("patch", "apply", cwd=site.here.root, env=dict(os.environ)).out


def test_it_says_what_the_commands_say(site: Checkout) -> None:
    for command in COMMANDS:
        known = quick.answer(list(command))
        (site.here.root / quick.MEMO).rename(site.here.root / "kept")
        ran = _lora(site, *command)
        assert (ran.code, ran.out) == (0, known)
        (site.here.root / "kept").replace(site.here.root / quick.MEMO)


def test_other_command_lines_are_left_to_the_commands(site: Checkout) -> None:
    for args in (["patch"], ["patch", "revert"], ["patch", "apply", "--tree"], ["patch", "apply", "--help"], []):
        assert quick.answer(args) is None


def _touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def _rewrite_with_old_times(path: Path) -> None:
    status = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _replace_with_link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved").name)


FILES = [
    "third_party/alpha/a.py",
    "third_party/alpha/a.py.orig",
    "third_party/alpha/new/n.py",
    "third_party/beta/.git/HEAD",
    "patches/patches.lock",
    "patches/alpha/series",
    "patches/beta/0001-third.patch",
    "patches/docs/10-intro.md",
    "PATCHES.md",
    ".gitmodules",
    ".git/index",
]


@pytest.mark.parametrize("change", [Path.unlink, _touch, _rewrite_with_old_times, _replace_with_link])
def test_any_change_to_a_file_ends_it(site: Checkout, tmp_path: Path, change) -> None:
    for file in FILES:
        path = site.here.root / file
        shutil.copy2(path, tmp_path / "kept")
        change(path)
        assert all(quick.answer(list(command)) is None for command in COMMANDS), file
        path.unlink(missing_ok=True)
        path.with_suffix(".moved").unlink(missing_ok=True)
        shutil.copy2(tmp_path / "kept", path)
        _settle()
        assert _lora(site, "patch", "verify").code == 0
        assert all(quick.answer(list(command)) for command in COMMANDS), file


def test_a_file_that_appears_ends_it(site: Checkout) -> None:
    for file in ("third_party/alpha/lib/gone.py", "patches/docs/99-more.md", "patches/gamma/series"):
        path = site.here.root / file
        memo = (site.here.root / quick.MEMO).read_bytes()
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
        assert quick.answer(["patch", "verify"]) is None
        path.unlink()
        (site.here.root / quick.MEMO).write_bytes(memo)


def test_a_folder_that_becomes_a_link_ends_it(site: Checkout) -> None:
    _replace_with_link(site.root("alpha") / "new")
    assert quick.answer(["patch", "verify"]) is None


def test_an_unfinished_transaction_ends_it(site: Checkout) -> None:
    (site.here.root / ".lora/patching/journal.ready").write_text("{}")
    assert quick.answer(["patch", "apply"]) is None


def test_files_that_have_nothing_to_do_with_it_do_not_end_it(site: Checkout) -> None:
    (site.root("alpha") / "lib/__pycache__").mkdir()
    (site.root("alpha") / "other.py").write_text("x")
    assert quick.answer(["patch", "verify"])


def test_a_damaged_memo_is_no_answer(site: Checkout) -> None:
    memo = site.here.root / quick.MEMO
    whole = memo.read_bytes()
    known = {quick.answer(list(command)) for command in COMMANDS}
    for cut in range(0, len(whole) - 1, 97):
        memo.write_bytes(whole[:cut])
        answers = [quick.answer(list(command)) for command in COMMANDS]
        assert set(answers) <= {None, *known}


def test_a_wrong_tree_is_never_remembered(site: Checkout) -> None:
    (site.root("alpha") / "a.py").write_text("drifted\n")
    _settle()
    assert _lora(site, "patch", "verify").code == 1
    assert quick.answer(["patch", "verify"]) is None
