from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from lora_training import git_process
from lora_training.upstream import pins
from lora_training.upstream.sync import sync
from lora_training.workspace import Upstream
from tests.helpers import git, lora, repository, write
from tests.upstream.conftest import Site, advance
from tests.upstream.test_sync import quiet


def as_json(site: Site) -> dict[str, Any]:
    (row,) = json.loads(lora("upstream", "status", "--json", cwd=site.here.root).out)["upstreams"]
    return dict(row)


def test_a_missing_tree_is_said_to_be_missing(site: Site) -> None:
    row = as_json(site)
    assert (row["state"], row["at_pin"], row["commit"]) == ("missing", False, None)


def test_a_fresh_tree_is_clean_at_its_pin_and_says_which_mirror_it_came_from(site: Site) -> None:
    sync(site.here, "sd-scripts", quiet)
    row = as_json(site)
    assert (row["state"], row["at_pin"]) == ("clean", True)
    assert row["source"] == f"file://{site.remote}"


def test_an_edit_is_drift_and_is_named(site: Site) -> None:
    sync(site.here, "sd-scripts", quiet)
    (site.tree / "train_network.py").write_text("mine\n")
    row = as_json(site)
    assert (row["state"], row["changed"]) == ("drifted", ["train_network.py"])


def test_what_our_patches_changed_is_no_drift(site: Site) -> None:
    sync(site.here, "sd-scripts", quiet)
    (site.tree / "train_network.py").write_text("patched\n")
    read = pins.status(site.here, "sd-scripts")
    assert read.state({"train_network.py"}) == "patched"
    assert read.state({"other.py"}) == "drifted"


def test_a_moved_pin_shows(site: Site) -> None:
    sync(site.here, "sd-scripts", quiet)
    advance(site)
    assert as_json(site)["at_pin"] is False
    assert "NOT at its pin" in lora("upstream", "status", cwd=site.here.root).out


def test_a_branch_checked_out_by_hand_is_read_like_a_commit(site: Site) -> None:
    sync(site.here, "sd-scripts", quiet)
    git("checkout", "-q", "-b", "mine", cwd=site.tree)
    git("pack-refs", "--all", cwd=site.tree)
    assert as_json(site)["at_pin"] is True


def test_without_a_repository_around_us_the_lock_says_the_pin(site: Site) -> None:
    pin = as_json(site)["pin"]
    (site.here.root / ".git").rename(site.here.root.parent / "taken away")
    (site.here.patches / "patches.lock").write_text(f'[upstreams.sd-scripts]\ncommit = "{pin}"\n')
    assert as_json(site)["pin"] == pin
    (site.here.patches / "patches.lock").unlink()
    ran = lora("upstream", "status", cwd=site.here.root)
    assert ran.code == 4
    assert "no pin" in ran.err


def test_a_repository_of_another_user_is_said_to_be_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "a tree"
    repository(tree, {"a": "b"})
    monkeypatch.setattr(git_process, "_KEPT", re.compile("GIT_.*"))
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    with pytest.raises(git_process.DubiousOwnershipError, match="belongs to another user") as caught:
        pins.changes(Upstream("a", tree, ""), pins.Head("0" * 40, "git"))
    assert (caught.value.message.split(" belongs")[0], caught.value.exit_code) == (str(tree), 4)
    assert caught.value.hint == f"if you trust it: git config --global --add safe.directory '{tree}'"


@pytest.mark.parametrize(
    "files", [5, [], {"../../out": "x"}, {"/dev/zero": "x"}, {"a": 5}, {"a/../../b": "x"}, {"a\0b": "x"}]
)
def test_a_list_of_files_that_makes_no_sense_is_as_good_as_none(files: object, site: Site) -> None:
    write(site.tree, {".lora-upstream.json": json.dumps({"commit": "a" * 40, "archive": "x", "files": files})})
    assert as_json(site)["commit"] is None


@pytest.mark.parametrize(
    "marker", ["5", '{"commit": 5, "files": {"a": "b"}}', '{"commit": "a"}', "[" * 100_000, "\udcff"]
)
def test_a_marker_that_makes_no_sense_is_as_good_as_none(marker: str, site: Site) -> None:
    (site.tree / ".lora-upstream.json").write_text(marker, encoding="utf-8", errors="surrogateescape")
    assert as_json(site)["commit"] is None


def test_a_listed_file_that_never_ends_is_not_read(site: Site) -> None:
    write(site.tree, {".lora-upstream.json": json.dumps({"commit": "a" * 40, "archive": "x", "files": {"a": "b"}})})
    (site.tree / "a").symlink_to("/dev/zero")
    assert as_json(site)["changed"] == ["a"]


LOCKS = [
    "upstreams = 5",
    "[upstreams]\nsd-scripts = 5",
    "[upstreams.sd-scripts]\npristine = 5",
    "a = [",
    "[upstreams.sd-scripts]",
]
LOCKS += ['[upstreams.sd-scripts]\ncommit = 5\n[upstreams.sd-scripts.pristine]\n"f" = "absent"']
LOCKS += ['[upstreams.sd-scripts]\ncommit = "x"\npatches = 5', '[upstreams.sd-scripts]\ncommit = "x"\npatches = [5]']
LOCKS += ['[upstreams.sd-scripts]\ncommit = "x"\n[upstreams.sd-scripts.pristine]\n"../../../f" = "absent"']
LOCKS += ['[upstreams.sd-scripts]\ncommit = "x"\n[upstreams.sd-scripts.pristine]\n"f" = 5']
LOCKS += [
    '[[upstreams.sd-scripts.patches]]\nname = "x"\nsha256 = "x"\n[upstreams.sd-scripts.patches.files]\n"f" = "absent"'
]
LOCKS += ["x = " + "[" * 10_000]


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize(
    "words", [("upstream", "status"), ("patch", "status"), ("patch", "verify"), ("patch", "revert")]
)
def test_a_lock_that_makes_no_sense_is_one_sentence(words: tuple[str, str], lock: str, site: Site) -> None:
    sync(site.here, "sd-scripts", quiet)
    (site.here.patches / "patches.lock").write_text(f"version = 1\n{lock}\n")
    ran = lora(*words, cwd=site.here.root)
    assert "Traceback" not in ran.err
    assert ran.code in (0, 1, 4, 5)
    assert not ran.err or ran.err.startswith("error: ")
