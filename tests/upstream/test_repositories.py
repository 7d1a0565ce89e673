"""git and GitPython, as they read repositories for us: only the one that was asked for, in any state."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lora_training import git_process, proc, repositories
from lora_training.errors import UpstreamError
from lora_training.upstream import bump, pins
from lora_training.upstream.sync import sync
from tests.helpers import ROOT, commit, git, lora, repository
from tests.upstream.test_sync import quiet

if TYPE_CHECKING:
    from tests.upstream.conftest import Site

ONE, TWO = "1" * 40, "2" * 40
SHELL = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_CEILING_DIRECTORIES",
)


@pytest.fixture
def pinned(tmp_path: Path) -> Path:
    """A repository with two submodules among files."""
    folder = tmp_path / "r"
    repository(folder, dict.fromkeys([f"{'d' * (1 + n % 9)}/f{n}.py" for n in range(40)], "x"))
    for name, link in (("third_party/one", ONE), ("z ü", TWO)):
        git("update-index", "--add", "--cacheinfo", f"160000,{link},{name}", cwd=folder)
    return folder


def _links(folder: Path) -> list[str | None]:
    return [git_process.gitlink(folder, path) for path in ("third_party/one", "z ü", "d/f0.py", "nothing")]


@pytest.mark.parametrize("args", [(), ("--index-version", "4"), ("--split-index",), ("--skip-worktree", "d/f0.py")])
def test_submodules_are_read_from_an_index_of_any_kind(pinned: Path, args: tuple[str, ...]) -> None:
    git("update-index", *args, cwd=pinned)
    assert _links(pinned) == [ONE, TWO, None, None]
    git("update-index", "--cacheinfo", f"160000,{TWO},third_party/one", cwd=pinned)
    assert _links(pinned) == [TWO, TWO, None, None]


def test_a_damaged_index_is_an_error_and_never_another_answer(pinned: Path) -> None:
    index = pinned / ".git" / "index"
    data = index.read_bytes()
    for cut in range(0, len(data), 97):
        index.write_bytes(data[:cut])
        with contextlib.suppress(proc.ProcError):
            assert git_process.gitlink(pinned, "third_party/one") in (ONE, None)


@pytest.mark.parametrize("files", [{}, {"HEAD": "ref: refs/heads/main\n", "objects/x": "", "refs/x": ""}])
def test_a_tree_without_a_repository_is_not_answered_by_the_one_around_it(pinned: Path, files: dict[str, str]) -> None:
    tree = pinned / "tree"
    for name, text in {"a.py": "", **files}.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    assert git_process.head(tree) is None
    with pytest.raises(UpstreamError, match=r"holds no repository"), repositories.opened(tree):
        pass
    with pytest.raises(proc.ProcError, match="rev-parse"):
        git_process.run(tree, "rev-parse", "--show-toplevel")


def test_a_folder_that_is_gone_is_not_answered_by_the_current_one(
    pinned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pinned)
    with pytest.raises(proc.ProcError):
        git_process.run(pinned / "gone", "config", "--local", "core.bare")


def test_what_the_shell_sets_for_git_does_not_decide(site: Site, pinned: Path) -> None:
    sync(site.here, "sd-scripts", quiet)
    (site.tree / "train_network.py").write_text("mine\n")
    plain = lora("upstream", "status", "--json", cwd=site.here.root)
    assert json.loads(plain.out)["upstreams"][0]["changed"] == ["train_network.py"]
    values = (".git", ".", ".git/index", ".git", ".git/objects", "..")
    for name, value in zip(SHELL, values, strict=True):
        env = {**os.environ, name: str((pinned / value).resolve())}
        assert lora("upstream", "status", "--json", cwd=site.here.root, env=env) == plain
    everything = {**os.environ, **{name: str(pinned / value) for name, value in zip(SHELL, values, strict=True)}}
    assert lora("upstream", "status", "--json", cwd=site.here.root, env=everything) == plain


def test_a_repository_that_is_closed_leaves_no_process(tmp_path: Path) -> None:
    repository(tmp_path / "r", {"a": "b"})
    with repositories.opened(tmp_path / "r") as repo:
        assert repo.head.commit.tree.join("a").data_stream.read() == b"b"
        children = [repo.git.cat_file_header, repo.git.cat_file_all]
        running = [child.proc for child in children if child is not None]
        assert [child.poll() for child in running] == [None, None]
    assert None not in [child.poll() for child in running]


@pytest.mark.parametrize("name", ["HEAD", "config", "index", "objects", "packed-refs", "refs"])
def test_whatever_is_damaged_is_said_in_a_sentence(site: Site, name: str) -> None:
    sync(site.here, "sd-scripts", quiet)
    place = site.tree / ".git" / name
    if place.is_dir():
        shutil.rmtree(place)
    place.write_bytes(b"\0\xff nonsense [\n")
    for args in (("status",), ("bump", "sd-scripts", "HEAD"), ("sync",)):
        ran = lora("upstream", *args, cwd=site.here.root)
        assert "Traceback" not in ran.err
        assert ran.code == 0 or ran.err.startswith("error: "), ran.err


def test_a_commit_that_is_not_here_is_said_in_a_sentence(pinned: Path) -> None:
    with pytest.raises(UpstreamError, match="cannot be read"), repositories.opened(pinned) as repo:
        repo.commit(ONE)


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "third_party/../../x", ""])
def test_a_submodule_outside_of_the_checkout_is_refused(site: Site, path: str) -> None:
    modules = site.here.root / ".gitmodules"
    modules.write_text(modules.read_text().replace("path = third_party/sd-scripts", f"path = {path}"))
    ran = lora("upstream", "status", cwd=site.here.root)
    assert (ran.code, "outside of the checkout" in ran.err) == (4, True)


def test_an_address_that_runs_a_program_is_refused_even_where_it_is_allowed(site: Site, tmp_path: Path) -> None:
    modules = site.here.root / ".gitmodules"
    modules.write_text(modules.read_text().replace("https://", f"ext::touch {tmp_path}/ran "))
    site.git_config("protocol.ext.allow", "always")
    ran = lora("upstream", "sync", cwd=site.here.root)
    assert ran.code == 4
    assert "git would run a program by the address ext::" in ran.err
    assert not (tmp_path / "ran").exists()


def test_without_git_what_needs_none_works_and_the_rest_says_so(site: Site, tmp_path: Path) -> None:
    sync(site.here, "sd-scripts", quiet)
    env = {**os.environ, "PATH": str(tmp_path)}
    ran = lora("upstream", "status", cwd=site.here.root, env=env)
    assert (ran.code == 0, ran.err.splitlines()[-1]) == (False, "hint: git: not found")
    revision = pins.pin(site.here, "sd-scripts")
    shutil.rmtree(site.tree / ".git")
    (site.here.root / ".git").rename(tmp_path / "taken away")
    (site.tree / pins.MARKER).write_text(
        json.dumps({"commit": revision, "origin": "sealed", "archive": "x", "files": {"a": "b"}})
    )
    (site.here.patches / "patches.lock").write_text(f'[upstreams.sd-scripts]\ncommit = "{revision}"\n')
    ran = lora("upstream", "status", "--json", cwd=site.here.root, env=env)
    assert (ran.code, json.loads(ran.out)["upstreams"][0]["at_pin"]) == (0, True)


def test_a_branch_is_what_its_remote_has_now(site: Site) -> None:
    sync(site.here, "sd-scripts", quiet)
    upstream = site.here.upstream("sd-scripts")
    stale = pins.pin(site.here, "sd-scripts")
    for ref in ("refs/heads/main", "refs/remotes/origin/main"):
        git("update-ref", ref, stale, cwd=site.tree)
    newer = commit(site.remote, {"new.py": "x"})
    assert bump.resolve(upstream, "main") == newer
    git("tag", "v1", stale, cwd=site.tree)
    git("branch", "own", stale, cwd=site.tree)
    assert bump.resolve(upstream, "own") == stale
    site.remote.rename(site.remote.with_name("gone"))
    for ref in (stale, stale[:10], "v1", "HEAD", newer):
        assert bump.resolve(upstream, ref) == (newer if ref == newer else stale)
    with pytest.raises(UpstreamError, match="has no main; git says"):
        bump.resolve(upstream, "main")


USED = "import sys; from lora_training.cli import run; run(sys.argv[1:]); print('git' in sys.modules, file=sys.stderr)"


@pytest.mark.parametrize(
    ("args", "imported"),
    [
        ("--help", False),
        ("config check configs/smoke.toml", False),
        ("config show configs/smoke.toml", False),
        ("patch --help", False),
        ("upstream status", False),
        ("patch verify", False),
        ("patch list", False),
        ("patch lock", True),
    ],
)
def test_gitpython_is_imported_only_where_it_is_used(args: str, *, imported: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", USED, *args.split()], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == str(imported)
