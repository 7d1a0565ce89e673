"""Apply, revert and verify over two upstreams."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lora_training import locks
from lora_training.errors import ConfigError, PatchError, UpstreamError
from lora_training.patching import docs, engine, lockfile, verify
from lora_training.patching.transaction import root_of, shared_lock
from tests.helpers import git
from tests.patching.conftest import LINES, Checkout
from tests.patching.kill import survives


def _problems(checkout: Checkout) -> list[str]:
    docs.write(checkout.here, checkout.targets)
    return [problem.message for problem in verify.verify(checkout.here, checkout.targets).problems]


def test_apply_brings_every_tree_to_the_last_step(checkout: Checkout) -> None:
    result = engine.apply(checkout.here, checkout.targets)
    alpha = checkout.root("alpha")
    assert [tree.done for tree in result.trees] == ["applied", "applied"]
    assert (alpha / "a.py").read_text() == LINES.replace("2\n", "two\n", 1) + "end\n"
    assert (alpha / "a.py.orig").read_text() == LINES
    assert (alpha / "new/n.py").read_text() == "n\n"
    assert not (alpha / "lib/gone.py").exists()
    assert (alpha / "lib/gone.py.orig").read_text() == "g\n"
    assert _problems(checkout) == []


def test_apply_on_an_applied_tree_changes_not_even_a_timestamp(checkout: Checkout) -> None:
    engine.apply(checkout.here, checkout.targets)
    before = _stamps(checkout.here.root)
    result = engine.apply(checkout.here, checkout.targets)
    assert [tree.done for tree in result.trees] == ["unchanged", "unchanged"]
    assert _stamps(checkout.here.root) == before


def _stamps(root: Path) -> dict[str, tuple[int, ...]]:
    found = {}
    for base, folders, files in os.walk(root):
        for name in [*folders, *files]:
            status = (Path(base) / name).lstat()
            found[str(Path(base) / name)] = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
    return found


def test_pristine_copies_do_not_show_in_git_status(checkout: Checkout) -> None:
    engine.apply(checkout.here, checkout.targets)
    status = git("status", "--porcelain", cwd=checkout.root("alpha"))
    assert ".orig" not in status


def test_revert_restores_every_byte_and_leaves_nothing(checkout: Checkout) -> None:
    (checkout.root("beta") / "c.py").chmod(0o600)
    before = checkout.trees()
    engine.apply(checkout.here, checkout.targets)
    engine.revert(checkout.here, checkout.targets)
    assert checkout.trees() == before


@pytest.mark.parametrize("step", [1, 2])
def test_apply_goes_on_from_an_earlier_step(checkout: Checkout, step: int) -> None:
    for path in sorted((checkout.here.patches / "alpha").glob("*.patch"))[:step]:
        git("apply", str(path), cwd=checkout.root("alpha"))
    engine.apply(checkout.here, checkout.targets)
    assert _problems(checkout) == []
    engine.revert(checkout.here, checkout.targets)
    assert git("status", "--porcelain", cwd=checkout.root("alpha")) == ""


def test_files_at_different_steps_are_all_brought_to_the_last(checkout: Checkout) -> None:
    engine.apply(checkout.here, checkout.targets)
    git("checkout", "--", "lib/gone.py", cwd=checkout.root("alpha"))
    assert _problems(checkout) == ["lib/gone.py is pristine"]
    engine.apply(checkout.here, checkout.targets)
    assert _problems(checkout) == []


def test_a_drifted_file_is_refused_and_nothing_changes_in_any_tree(checkout: Checkout) -> None:
    (checkout.root("beta") / "c.py").write_text("mine\n")
    before = checkout.trees()
    for command in (engine.apply, engine.revert):
        with pytest.raises(PatchError, match=r"beta: c\.py has drifted: it is .* expected .* \(pristine\)") as caught:
            command(checkout.here, checkout.targets)
        # nothing that is at hand tells the edits of an archive's file from its pristine lines
        assert str(caught.value.hint).startswith("throw them away: `lora upstream sync beta --discard-edits`")
    with pytest.raises(PatchError, match="its pristine content is not at hand"):
        engine.revert(checkout.here, checkout.targets, checkout.here.root / "kept.patch")
    assert checkout.trees() == before
    assert any("c.py has drifted" in what for what in _problems(checkout))


def test_a_changed_mode_is_drift(checkout: Checkout) -> None:
    (checkout.root("beta") / "c.py").chmod(0o755)
    with pytest.raises(PatchError, match="100755"):
        engine.apply(checkout.here, checkout.targets)


def test_a_tree_away_from_its_pin_is_refused(checkout: Checkout) -> None:
    checkout.commits["alpha"], real = "c" * 40, checkout.commits["alpha"]
    target = checkout.targets[0].__class__(**{**vars(checkout.targets[0]), "commit": real})
    with pytest.raises(UpstreamError, match="its pin is"):
        engine.apply(checkout.here, [target])


def test_a_lock_for_another_commit_is_refused(checkout: Checkout) -> None:
    checkout.commits["beta"] = "d" * 40
    with pytest.raises(PatchError, match=r"patches\.lock is for commit"):
        engine.apply(checkout.here, checkout.targets)


@pytest.mark.parametrize("applied", [False, True])
def test_a_patch_edited_after_locking_is_refused_until_it_is_locked(checkout: Checkout, applied: bool) -> None:
    if applied:
        engine.apply(checkout.here, checkout.targets)
    path = checkout.here.patches / "beta" / "0001-third.patch"
    path.write_bytes(path.read_bytes().replace(b"a test", b"another reason"))
    with pytest.raises(PatchError, match="edited after locking"):
        engine.apply(checkout.here, checkout.targets)
    assert any("edited after locking" in what for what in _problems(checkout))
    checkout.lock()
    engine.apply(checkout.here, checkout.targets)
    assert _problems(checkout) == []


def test_locking_says_what_changes(checkout: Checkout) -> None:
    from lora_training.patching import relock

    path = checkout.here.patches / "beta" / "0001-third.patch"
    path.write_bytes(path.read_bytes().replace(b"+seven", b"+SEVEN"))
    changes = relock.lock(checkout.here, checkout.targets).changes
    assert changes == ("beta: 0001-third.patch edited",)
    assert relock.lock(checkout.here, checkout.targets).changes == ()


def test_locking_is_refused_while_the_old_patch_is_in(checkout: Checkout) -> None:
    engine.apply(checkout.here, checkout.targets)
    lock = (checkout.here.patches / lockfile.LOCK).read_bytes()
    path = checkout.here.patches / "beta" / "0001-third.patch"
    path.write_bytes(path.read_bytes().replace(b"+seven", b"+SEVEN"))
    with pytest.raises(PatchError, match="before they were edited"):
        checkout.lock()
    assert (checkout.here.patches / lockfile.LOCK).read_bytes() == lock
    engine.revert(checkout.here, checkout.targets)
    checkout.lock()
    engine.apply(checkout.here, checkout.targets)
    assert "SEVEN" in (checkout.root("beta") / "c.py").read_text()


def test_a_patch_that_does_not_fit_is_refused_at_locking(checkout: Checkout) -> None:
    checkout.add_diff("beta", "late", b"--- a/c.py\n+++ b/c.py\n@@ -1,2 +1,2 @@\n 0\n-nine\n+ten\n")
    with pytest.raises(PatchError, match=r"0002-late\.patch, line 14: this hunk of c\.py does not fit"):
        checkout.lock()


def test_a_foreign_orig_is_refused_and_never_touched(checkout: Checkout) -> None:
    theirs = checkout.root("beta") / "c.py.orig"
    theirs.write_text("theirs\n")
    before = checkout.trees()
    with pytest.raises(PatchError, match=r"c\.py\.orig is in the way of the pristine copy"):
        engine.apply(checkout.here, checkout.targets)
    assert checkout.trees() == before


TURNED = b"""\
diff --git a/lib/b.py b/lib/b.py
deleted file mode 100644
--- a/lib/b.py
+++ /dev/null
@@ -1 +0,0 @@
-b
diff --git a/lib b/lib
new file mode 100644
--- /dev/null
+++ b/lib
@@ -0,0 +1 @@
+a file
"""


def test_a_folder_that_holds_pristine_copies_cannot_become_a_file(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.add_diff("alpha", "turn", TURNED)
    before = checkout.trees()
    wanted = r"turn the folder lib into a file, but lib/b\.py in it needs a place for its pristine copy"
    with pytest.raises(PatchError, match=wanted):
        checkout.lock()
    with monkeypatch.context() as patching:
        patching.setattr(lockfile, "check_copies_have_room", lambda _: None)
        checkout.lock()
    with pytest.raises(PatchError, match=wanted) as refused:
        engine.apply(checkout.here, checkout.targets)
    assert refused.value.exit_code == 5
    assert checkout.trees() == before


def test_an_orig_that_is_pristine_already_is_taken_as_it_is(checkout: Checkout) -> None:
    root = checkout.root("beta")
    shutil.copy2(root / "c.py", root / "c.py.orig")
    inode = (root / "c.py.orig").stat().st_ino
    engine.apply(checkout.here, checkout.targets)
    assert (root / "c.py.orig").stat().st_ino == inode


def test_a_lost_orig_is_worked_out_again(checkout: Checkout) -> None:
    engine.apply(checkout.here, checkout.targets)
    (checkout.root("alpha") / "a.py.orig").unlink()
    assert _problems(checkout) == ["a.py.orig, the pristine copy, is missing"]
    engine.apply(checkout.here, checkout.targets)
    assert _problems(checkout) == []
    (checkout.root("alpha") / "a.py.orig").unlink()
    engine.revert(checkout.here, checkout.targets)
    assert (checkout.root("alpha") / "a.py").read_text() == LINES


def test_a_spoilt_orig_stops_a_revert(checkout: Checkout) -> None:
    engine.apply(checkout.here, checkout.targets)
    (checkout.root("alpha") / "a.py.orig").write_text("spoilt\n")
    assert _problems(checkout) == ["a.py.orig is not the pristine file"]
    with pytest.raises(PatchError, match=r"a\.py\.orig is not the pristine copy"):
        engine.revert(checkout.here, checkout.targets)


def test_a_created_file_that_was_changed_since_stops_a_revert(checkout: Checkout) -> None:
    engine.apply(checkout.here, checkout.targets)
    (checkout.root("alpha") / "new/n.py").write_text("mine\n")
    with pytest.raises(PatchError, match=r"new/n\.py has drifted"):
        engine.revert(checkout.here, checkout.targets)
    assert (checkout.root("alpha") / "new/n.py").read_text() == "mine\n"


def test_someone_elses_file_keeps_a_folder_that_a_patch_made(checkout: Checkout) -> None:
    engine.apply(checkout.here, checkout.targets)
    (checkout.root("alpha") / "new/theirs").write_text("x")
    engine.revert(checkout.here, checkout.targets)
    assert [path.name for path in (checkout.root("alpha") / "new").iterdir()] == ["theirs"]


def test_a_series_without_a_lock_is_refused(checkout: Checkout) -> None:
    (checkout.here.patches / lockfile.LOCK).unlink()
    with pytest.raises(PatchError, match="says nothing about") as caught:
        engine.apply(checkout.here, checkout.targets)
    assert "lora patch lock" in (caught.value.hint or "")


def test_the_lock_is_the_same_for_the_same_content_and_survives_odd_names(checkout: Checkout) -> None:
    name = b'caf\\351 \\"%.py"'
    diff = b'diff --git "a/' + name + b' "b/' + name + b"\nnew file mode 100644\n"
    diff += b'--- /dev/null\n+++ "b/' + name + b"\n@@ -0,0 +1 @@\n+x\n"
    checkout.add_diff("beta", "odd", diff)
    checkout.lock()
    lock = checkout.here.patches / lockfile.LOCK
    assert lockfile.render(lockfile.read(checkout.here.patches)) == lock.read_text()
    engine.apply(checkout.here, checkout.targets)
    assert (checkout.root("beta") / os.fsdecode(b'caf\xe9 "%.py')).exists()
    assert _problems(checkout) == []


def test_killed_anywhere_all_trees_are_at_one_step_after_the_next_command(checkout: Checkout) -> None:
    before = checkout.trees()
    outcomes = []
    for at in range(1, 90, 4):
        if survives(lambda: engine.apply(checkout.here, checkout.targets), at):
            break
        recovered = engine.revert(checkout.here, checkout.targets).recovered
        outcomes.append(recovered.outcome if recovered else "none")
        assert checkout.trees() == before
    assert {"none", "undone", "finished"} == set(outcomes)


def test_a_command_says_who_holds_the_lock(checkout: Checkout) -> None:
    here = root_of(checkout.here)
    with shared_lock(checkout.here):
        for name, error in ((None, PatchError), (Path("captions"), ConfigError)):
            lock = locks.exclusive(here.path, wait_s=0, name=name, error=error)
            with pytest.raises(error, match=f"^{name or here.path} is in use by process {os.getpid()}"):
                lock.__enter__()


def test_a_command_that_waits_says_once_for_whom(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(locks, "_listeners", [said.append])
    monkeypatch.setattr(locks, "SAY_AFTER_S", 0)
    lock = locks.exclusive(root_of(checkout.here).path, wait_s=0.1)
    with shared_lock(checkout.here), pytest.raises(ConfigError):
        lock.__enter__()
    [line] = said
    assert line.startswith(f"waiting up to 0 seconds for process {os.getpid()} (")


def test_training_starts_hold_the_lock_together(checkout: Checkout) -> None:
    with shared_lock(checkout.here), shared_lock(checkout.here):
        pass


@pytest.mark.parametrize("left", ["an empty folder", "nothing"])
def test_revert_takes_out_what_there_is_where_a_tree_was_never_brought(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, left: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from lora_training.cli import run

    before = checkout.trees()["alpha"]
    engine.apply(checkout.here, checkout.targets)
    shutil.rmtree(checkout.root("beta"))
    if left == "an empty folder":
        checkout.root("beta").mkdir()
    monkeypatch.setenv("LORA_HOME", str(checkout.here.root))
    assert run(["patch", "revert", "beta"]) == 4
    assert "beta" in capsys.readouterr().err
    assert run(["patch", "revert"]) == 0
    assert checkout.trees()["alpha"] == before
