"""Checkouts and repositories from others: git runs no program that they name."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lora_training import proc
from lora_training.upstream.sync import sync
from tests.config.conftest import FILES
from tests.helpers import ROOT, git, lora, repository
from tests.upstream.test_sync import quiet

if TYPE_CHECKING:
    from tests.upstream.conftest import Site

SETTINGS = {
    "filter": {"filter.evil.clean": "{ran}"},
    "filter of an included file": {"include.path": "more"},
    "ssh": {"core.sshCommand": "{ran}"},
    "credentials": {"credential.https://example.org.helper": "!{ran}"},
    "the far end": {"remote.origin.uploadpack": "{ran}"},
    "a protocol that is a program": {"protocol.ext.allow": "always"},
}


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """A program that leaves a file beside it when it is run."""
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\ntouch "$0.ran"\ncat\n', encoding="utf-8")
    program.chmod(0o755)
    return program


def was_run(program: Path) -> bool:
    return Path(f"{program}.ran").exists()


@pytest.fixture
def theirs(site: Site, ran: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A checkout with a tree, whose repositories run a program at every turn, as far as git can be told to."""
    sync(site.here, "sd-scripts", quiet)
    for each in (site.here.root, site.tree):
        git("config", "core.fsmonitor", str(ran), cwd=each)
        for hook in ("post-checkout", "post-index-change", "reference-transaction"):
            (each / ".git" / "hooks" / hook).symlink_to(ran)
    monkeypatch.delenv("LORA_HOME")
    return site


COMMANDS = (
    "upstream status",
    "upstream sync",
    "patch verify",
    "patch apply",
    "train configs/smoke.toml --dry-run",
    "runs list",
)


@pytest.mark.parametrize("args", COMMANDS)
def test_a_checkout_around_us_that_is_not_our_own_has_to_be_named(theirs: Site, ran: Path, args: str) -> None:
    below = theirs.here.root / "images"
    below.mkdir()
    said = lora(*args.split(), cwd=below)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(f"error: {theirs.here.root} is a checkout that this `lora` does not belong to\nhint: ")
    assert f"LORA_HOME='{theirs.here.root}'" in said.err
    assert f"LORA_HOME={shlex.quote(str(ROOT))} keeps to its own" in said.err
    assert not was_run(ran)


def test_our_own_checkout_is_found_from_anywhere(tmp_path: Path) -> None:
    for folder in (ROOT / "tests", tmp_path):
        found = json.loads(lora("upstream", "status", "--json", cwd=folder).out)["upstreams"]
        assert [row["path"] for row in found] == [str(ROOT / "third_party" / row["name"]) for row in found]


def test_no_hook_and_no_monitor_of_a_named_checkout_runs(theirs: Site, ran: Path) -> None:
    env = {**os.environ, "LORA_HOME": str(theirs.here.root)}
    (theirs.tree / "train_network.py").touch()
    assert lora("upstream", "status", cwd=theirs.here.root, env=env).code == 0
    # its script has no parser to read flags from
    assert lora("upstream", "bump", "sd-scripts", "main", cwd=theirs.here.root, env=env).code == 4
    assert lora("upstream", "sync", "--discard-edits", cwd=theirs.here.root, env=env).code == 0
    assert not was_run(ran)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_a_repository_that_names_a_program_is_refused(
    theirs: Site, ran: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    (theirs.tree / ".git" / "more").write_text(f'[filter "evil"]\n\tclean = {ran}\n', encoding="utf-8")
    (theirs.tree / ".git" / "info" / "attributes").write_text("* filter=evil\n", encoding="utf-8")
    for key, value in settings.items():
        git("config", key, value.format(ran=ran), cwd=theirs.tree)
    (theirs.tree / "train_network.py").write_text("changed\n", encoding="utf-8")
    env = {**os.environ, "LORA_HOME": str(theirs.here.root)}
    for args in ("status", "bump sd-scripts nowhere"):
        said = lora("upstream", *args.split(), cwd=tmp_path, env=env)
        assert said.code == 4
        assert "would run a program" in said.err
        assert "hint: if it is yours, move it to your own configuration" in said.err
    assert not was_run(ran)


def test_a_tree_given_to_a_check_is_a_stranger_too(tmp_path: Path, ran: Path) -> None:
    tree = tmp_path / "tree"
    repository(tree, FILES)
    git("tag", "v1", cwd=tree)
    git("config", "filter.evil.smudge", str(ran), cwd=tree)
    git("config", "core.fsmonitor", str(ran), cwd=tree)
    (tree / ".git" / "info" / "attributes").write_text("* filter=evil\n", encoding="utf-8")
    said = lora("config", "explain", "learning_rate", "--tree", tree, cwd=tmp_path)
    assert said.code == 4
    assert "filter.evil.smudge" in said.err
    assert not was_run(ran)


def test_a_submodule_may_say_where_it_lies(site: Site) -> None:
    git("submodule", "update", "--init", cwd=site.here.root)
    git("config", "core.worktree", str(site.tree), cwd=site.tree)
    assert lora("upstream", "status", cwd=site.here.root).code == 0


def test_a_repository_that_says_it_lies_elsewhere_is_refused(theirs: Site, tmp_path: Path) -> None:
    git("config", "core.worktree", str(tmp_path), cwd=theirs.tree)
    said = lora("upstream", "status", cwd=tmp_path, env={**os.environ, "LORA_HOME": str(theirs.here.root)})
    assert said.code == 4
    assert "core.worktree" in said.err


def test_a_child_imports_nothing_from_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "lora_training" / "smoke").mkdir(parents=True)
    for name in ("json.py", "torch.py", "lora_training/__init__.py", "lora_training/smoke/__init__.py"):
        (tmp_path / name).write_text("open('imported', 'w')\n", encoding="utf-8")
    done = subprocess.run(
        [*proc.module("lora_training.runtime"), "a.py"], cwd=tmp_path, capture_output=True, check=False
    )
    assert b"a.py" in done.stderr
    assert not (tmp_path / "imported").exists()
    subprocess.run([sys.executable, "-m", "json.tool"], cwd=tmp_path, check=False, capture_output=True)
    assert (tmp_path / "imported").exists()
