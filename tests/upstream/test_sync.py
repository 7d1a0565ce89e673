from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lora_training.errors import UpstreamError
from lora_training.upstream import pins
from lora_training.upstream.sync import sync
from tests.helpers import ROOT, git, lora, repository
from tests.upstream.conftest import ADDRESS, Site, advance


def quiet(_text: str) -> None:
    """Nobody looks."""


def head(site: Site) -> str | None:
    return pins.head(site.here.upstream("sd-scripts")).commit


def test_a_sync_brings_the_pin_one_commit_deep_and_sparse(site: Site) -> None:
    assert sync(site.here, "sd-scripts", quiet) == "git"
    assert (site.tree / "train_network.py").read_text() == "print(1)\n"
    assert not (site.tree / "images").exists()
    assert git("rev-list", "--count", "HEAD", cwd=site.tree) == "1"
    assert git("status", "--porcelain", cwd=site.tree) == ""


def test_only_the_blobs_that_are_checked_out_come_along(site: Site) -> None:
    sync(site.here, "sd-scripts", quiet)
    missing = git("rev-list", "--objects", "--missing=print", "HEAD", cwd=site.tree)
    assert sum(line.startswith("?") for line in missing.splitlines()) == 1


def test_a_pattern_in_lora_exclude_is_left_out(site: Site) -> None:
    site.git_config("--add", "lora.exclude", "configs/big.json")
    sync(site.here, "sd-scripts", quiet)
    assert (site.tree / "train_network.py").exists()
    assert not (site.tree / "configs").exists()


def test_a_second_sync_touches_nothing(site: Site) -> None:
    sync(site.here, "sd-scripts", quiet)
    (site.tree / "train_network.py").write_text("patched\n")
    assert sync(site.here, "sd-scripts", quiet) == "kept"
    assert (site.tree / "train_network.py").read_text() == "patched\n"


def test_a_patched_tree_does_not_make_the_superproject_dirty(site: Site) -> None:
    sync(site.here, "sd-scripts", quiet)
    (site.tree / "train_network.py").write_text("patched\n")
    assert git("status", "--porcelain", cwd=site.here.root) == ""


def test_a_tree_brought_by_git_submodule_is_taken_as_it_is(site: Site) -> None:
    git("submodule", "update", "--init", cwd=site.here.root)
    assert (site.tree / ".git").is_file()
    assert sync(site.here, "sd-scripts", quiet) == "kept"
    assert (site.tree / "images" / "a.png").exists()


def test_git_submodule_takes_our_tree_for_its_own(site: Site) -> None:
    sync(site.here, "sd-scripts", quiet)
    git("submodule", "init", cwd=site.here.root)
    assert git("submodule", "status", cwd=site.here.root).startswith(str(head(site)))


def test_a_moved_pin_is_followed(site: Site) -> None:
    sync(site.here, "sd-scripts", quiet)
    revision = advance(site)
    assert sync(site.here, "sd-scripts", quiet) == "git"
    assert head(site) == revision
    assert (site.tree / "train_network.py").read_text() == "print(2)\n"


def test_edits_in_the_way_of_a_moved_pin_are_kept_and_named(site: Site) -> None:
    sync(site.here, "sd-scripts", quiet)
    (site.tree / "train_network.py").write_text("mine\n")
    advance(site)
    with pytest.raises(UpstreamError, match=r"has changes: train_network\.py"):
        sync(site.here, "sd-scripts", quiet)
    assert (site.tree / "train_network.py").read_text() == "mine\n"
    sync(site.here, "sd-scripts", quiet, discard_edits=True)
    assert (site.tree / "train_network.py").read_text() == "print(2)\n"


def test_edits_at_the_pin_are_thrown_away_only_when_asked(site: Site) -> None:
    sync(site.here, "sd-scripts", quiet)
    (site.tree / "train_network.py").unlink()
    assert sync(site.here, "sd-scripts", quiet) == "kept"
    assert sync(site.here, "sd-scripts", quiet, discard_edits=True) == "git"
    assert (site.tree / "train_network.py").read_text() == "print(1)\n"


def test_others_may_read_what_we_brought(site: Site) -> None:
    sync(site.here, "sd-scripts", quiet)
    assert site.tree.stat().st_mode & 0o777 == site.here.root.stat().st_mode & 0o777


@pytest.mark.parametrize("head", ["", "ref: HEAD", "nonsense"])
def test_a_damaged_repository_is_of_unknown_origin_and_left_alone(site: Site, head: str) -> None:
    sync(site.here, "sd-scripts", quiet)
    (site.tree / ".git" / "HEAD").write_text(head)
    (site.tree / "precious.txt").write_text("mine\n")
    with pytest.raises(UpstreamError, match="neither a checkout"):
        sync(site.here, "sd-scripts", quiet)
    assert (site.tree / "precious.txt").exists()
    assert lora("upstream", "status", cwd=site.here.root).out.startswith("sd-scripts: missing")


def test_something_of_unknown_origin_is_never_replaced(site: Site) -> None:
    (site.tree / "thesis.txt").write_text("years of work\n")
    with pytest.raises(UpstreamError, match="neither a checkout nor a source archive"):
        sync(site.here, "sd-scripts", quiet, discard_edits=True)
    assert (site.tree / "thesis.txt").exists()


def test_out_of_reach_is_exit_4_with_the_address_gits_words_and_the_recipe(unreachable: Site) -> None:
    ran = lora("upstream", "sync", cwd=unreachable.here.root)
    assert ran.code == 4
    assert ADDRESS in ran.err
    before, _, error = ran.err.partition("error: ")
    assert ("fatal:" in before, "fatal:" in error) == (False, True)
    assert "insteadOf" in ran.err
    assert "Traceback" not in ran.err
    assert list(unreachable.tree.iterdir()) == []


def test_a_failed_move_leaves_the_old_tree(site: Site) -> None:
    sync(site.here, "sd-scripts", quiet)
    before = head(site)
    advance(site)
    shutil.move(site.remote, site.remote.with_name("gone"))
    with pytest.raises(UpstreamError):
        sync(site.here, "sd-scripts", quiet)
    assert head(site) == before
    assert (site.tree / "train_network.py").read_text() == "print(1)\n"


# A sync whose process dies without a word at its n-th rename or at a line of git's.
DIES = """
import os, signal, sys
from lora_training import workspace
from lora_training.upstream import sync
die_at, seen = int(sys.argv[1]), 0
def step(real):
    def call(*args):
        global seen
        seen += 1
        if seen == die_at: os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)
    return call
sync.os.rename = step(os.rename)
sync.Path.rename = step(sync.Path.rename)
sync.sync(workspace.find(), "sd-scripts", step(lambda text: None))
"""


@pytest.mark.parametrize("moved", [False, True], ids=["first sync", "moved pin"])
def test_a_sync_killed_at_any_step_is_made_good_by_the_next(site: Site, *, moved: bool) -> None:
    deaths = 0
    for die_at in range(1, 40):
        shutil.rmtree(site.tree)
        site.tree.mkdir()
        if moved:
            sync(site.here, "sd-scripts", quiet)
            advance(site)
        died = subprocess.run(
            [sys.executable, "-c", DIES, str(die_at)],
            cwd=site.here.root,
            capture_output=True,
            check=False,
            env={
                "LORA_HOME": str(site.here.root),
                "PYTHONPATH": str(ROOT),
                "PATH": "/usr/bin:/bin",
                "GIT_CONFIG_GLOBAL": str(site.config),
            },
        )
        sync(site.here, "sd-scripts", quiet)
        assert head(site) == pins.pin(site.here, "sd-scripts")
        assert git("status", "--porcelain", cwd=site.tree) == ""
        if died.returncode != -signal.SIGKILL:
            assert died.returncode == 0, died.stderr
            break
        deaths += 1
    assert deaths > 3


def test_what_a_dead_sync_left_behind_is_cleared_away(site: Site) -> None:
    leftover = site.here.root / "third_party" / ".sync" / "sd-scripts-dead"
    (leftover / ".git").mkdir(parents=True)
    sync(site.here, "sd-scripts", quiet)
    assert list(leftover.parent.iterdir()) == []


def test_a_tree_that_lost_its_place_gets_it_back_without_a_network(site: Site) -> None:
    sync(site.here, "sd-scripts", quiet)
    before = head(site)
    staging = site.here.root / "third_party" / ".sync"
    site.tree.rename(staging / "old-sd-scripts")
    shutil.move(site.remote, site.remote.with_name("gone"))
    assert sync(site.here, "sd-scripts", quiet) == "kept"
    assert head(site) == before


def test_hooks_that_export_git_dir_do_not_lead_us_astray(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    other = site.here.root.parent / "other"
    repository(other, {"a": "b"})
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert sync(site.here, "sd-scripts", quiet) == "git"
    assert (site.tree / "train_network.py").exists()


def test_an_unknown_upstream_is_named_with_those_there_are(site: Site) -> None:
    ran = lora("upstream", "sync", "sd-script", cwd=site.here.root)
    assert ran.code == 4
    assert "sd-scripts" in ran.err


def test_the_checkout_is_found_from_below_and_by_variable(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    below = site.here.root / "patches"
    assert lora("upstream", "status", cwd=below).out.startswith("sd-scripts: missing")
    monkeypatch.setenv("LORA_HOME", str(site.here.root))
    assert lora("upstream", "status", cwd=Path("/")).out.startswith("sd-scripts: missing")
    monkeypatch.setenv("LORA_HOME", "/nowhere")
    assert lora("upstream", "status", cwd=Path("/")).code == 1
