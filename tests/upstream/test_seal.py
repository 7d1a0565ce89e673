"""Trees without their repositories, as a container image has them."""

from __future__ import annotations

import hashlib
import shutil

import pytest

from lora_training.errors import UpstreamError
from lora_training.upstream import pins, seal
from lora_training.upstream.sync import sync
from lora_training.workspace import HOME_VARIABLE
from tests.helpers import git, lora
from tests.upstream.conftest import ADDRESS, Site
from tests.upstream.test_sync import quiet

PRISTINE = "print(1)\n"


@pytest.fixture
def copied(site: Site) -> Site:
    """Make a build's context: a checkout without a repository, and a lock file that names patched files."""
    revision = pins.pin(site.here, "sd-scripts")
    sync(site.here, "sd-scripts", quiet)
    shutil.rmtree(site.here.root / ".git")
    digest = hashlib.sha256(PRISTINE.encode()).hexdigest()
    lock = f'version = 1\n[upstreams."sd-scripts"]\ncommit = "{revision}"\n'
    lock += f'[upstreams."sd-scripts".pristine]\n"train_network.py" = "100644 {digest}"\n'
    (site.here.patches / "patches.lock").write_text(lock, encoding="utf-8")
    return site


def changed(site: Site) -> tuple[str, ...]:
    return pins.status(site.here, "sd-scripts").changed


def test_a_sealed_tree_is_at_its_pin_and_clean_without_git(copied: Site) -> None:
    assert seal.seal(copied.here, "sd-scripts")
    read = pins.status(copied.here, "sd-scripts")
    assert (read.origin, read.at_pin, read.changed) == ("sealed", True, ())
    assert not (copied.tree / ".git").exists()


def test_an_edit_after_sealing_shows(copied: Site) -> None:
    seal.seal(copied.here, "sd-scripts")
    (copied.tree / "configs" / "big.json").write_text("{ }")
    assert changed(copied) == ("configs/big.json",)


def test_a_patched_file_stays_patched_and_counts_as_changed(copied: Site) -> None:
    (copied.tree / "train_network.py").write_text("print(2)\n")
    seal.seal(copied.here, "sd-scripts")
    assert (copied.tree / "train_network.py").read_text() == "print(2)\n"
    assert changed(copied) == ("train_network.py",)
    assert pins.manifest(copied.here.upstream("sd-scripts").path)["train_network.py"] == sha256(PRISTINE)


def test_a_file_that_a_patch_creates_may_have_any_name(copied: Site) -> None:
    with (copied.here.patches / "patches.lock").open("a") as lock:
        lock.write('"100%25.py" = "absent"\n"%FF.py" = "absent"\n')
    for name in ("100%.py", "\udcff.py"):
        (copied.tree / name).touch()
    assert seal.seal(copied.here, "sd-scripts")


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_an_edit_that_no_patch_contains_is_not_sealed(copied: Site) -> None:
    (copied.tree / "configs" / "big.json").write_text("{ }")
    with pytest.raises(UpstreamError, match=r"no patch contains: configs/big\.json"):
        seal.seal(copied.here, "sd-scripts")
    assert (copied.tree / ".git").exists()


def test_a_tree_at_another_commit_is_not_sealed(copied: Site) -> None:
    git("commit", "-q", "--allow-empty", "-m", "another", cwd=copied.tree)
    with pytest.raises(UpstreamError, match="not at its pin"):
        seal.seal(copied.here, "sd-scripts")


def test_what_is_missing_is_brought_and_sealed(copied: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(copied.tree)
    monkeypatch.setenv(HOME_VARIABLE, str(copied.here.root))
    assert seal.main() == 0
    assert pins.status(copied.here, "sd-scripts").origin == "sealed"
    # and once more: there is nothing left to do
    assert seal.main() == 0


def test_a_submodule_whose_repository_stayed_behind_is_brought_anew(
    copied: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copied.tree / ".git")
    (copied.tree / ".git").write_text("gitdir: ../../.git/modules/third_party/sd-scripts\n")
    monkeypatch.setenv(HOME_VARIABLE, str(copied.here.root))
    assert seal.main() == 0
    assert pins.status(copied.here, "sd-scripts").at_pin


def test_a_checkout_of_ours_is_not_sealed(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sync(site.here, "sd-scripts", quiet)
    monkeypatch.setenv(HOME_VARIABLE, str(site.here.root))
    assert seal.main() == 4
    assert "is a checkout" in capsys.readouterr().err
    assert (site.tree / ".git").exists()


def test_its_status_names_the_host_that_it_came_from(copied: Site) -> None:
    seal.seal(copied.here, "sd-scripts")
    ran = lora("upstream", "status", cwd=copied.here.root)
    assert "at its pin" in ran.out, ran.err
    assert ADDRESS in ran.out
