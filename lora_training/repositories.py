"""The door to git: GitPython, where neither the shell's variables nor a repository's own configuration decide.

A tree may come from a stranger, with its `.git`; git runs programs that a configuration names when it looks at files,
when it brings objects, and for hooks. Importing GitPython takes a tenth of a second: import this where it is used.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import struct
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

# where there is no git, as in our container image, the import is to succeed all the same
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import git
from git.exc import ODBError

from lora_training import proc
from lora_training.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A hook or `git rebase --exec` exports GIT_DIR and friends, which would point every call at the wrong repository.
# What says how to reach a server stays: a user's ssh command, certificates, and configuration by environment.
_KEPT = re.compile(
    r"GIT_(?:ASKPASS|CONFIG_(?:COUNT|GLOBAL|NOSYSTEM|PARAMETERS|SYSTEM|KEY_.*|VALUE_.*)|EXEC_PATH|HTTP_.*|PYTHON_.*"
    r"|SSH|SSH_COMMAND|SSL_CAINFO|SSL_NO_VERIFY|TRACE.*)"
)
# Given with every command, so that it overrides what the repository says.
_OFF = ("core.fsmonitor=false", "core.hooksPath=/dev/null")

# What neither looks at a tree's files nor needs an object that may have to be fetched, so that no program of a
# repository's configuration is reached. They are what we ask of our own checkout, which its owner sets up as he likes.
_HARMLESS = frozenset({"config", "init", "ls-files", "ls-remote", "remote", "update-index"})

# What else runs a program or writes outside of the tree, in the commands that we use. Not to be overridden like the
# above: a user's own `core.sshCommand` or credential helper, in the global configuration, is to be used.
_RISKY = re.compile(
    r"core\.(?:alternaterefscommand|askpass|gitproxy|sshcommand|worktree)|credential\.(?:.*\.)?helper"
    r"|filter\..*\.(?:clean|process|smudge)|hook\..*\.command|http\.(?:.*\.)?savecookies|protocol\..*"
    r"|remote\..*\.(?:uploadpack|vcs)",
    re.DOTALL,
)

# what git says of a repository of another user's, since 2.36 and before
_DUBIOUS = re.compile(r"(?:dubious ownership in repository at|unsafe repository \() ?'(.*?)'")
# what GitPython raises for files of a repository that are damaged
_DAMAGE = (git.GitError, ODBError, struct.error, AssertionError, OSError, TypeError, ValueError)
_GITLINK = 0o160000
# for output that is not text
RAW: dict[str, bool] = {"stdout_as_string": False, "strip_newline_in_stdout": False}


class DubiousOwnershipError(proc.ProcError):
    """git refuses to look at the repository at `path`, since it belongs to another user."""

    exit_code = UpstreamError.exit_code

    def __init__(self, completed: proc.Completed, path: str) -> None:
        super().__init__(completed)
        self.message = f"{path} belongs to another user, and git trusts nobody else's repository"
        self.hint = f"if you trust it: git config --global --add safe.directory {shlex.quote(path)}"
        self.args = (self.message,)


class Git(git.Git):
    """Commands in one folder. git looks for no repository above it, never prompts, and runs no program of a stranger's.

    A damaged repository inside another is an error, and not the other one.
    """

    def __init__(self, working_dir: str | os.PathLike[str] | None = None) -> None:
        folder = Path(working_dir or ".").absolute()
        super().__init__(folder)
        # the folder as an option too: in one that is gone, GitPython would run git in the current one
        self.set_persistent_git_options(C=str(folder), c=_OFF)
        self.update_environment(GIT_TERMINAL_PROMPT="0", GIT_CEILING_DIRECTORIES=str(folder.parent))

    def execute(self, command: Any, *args: Any, **options: Any) -> Any:
        """Run a command line of GitPython's. Raises UpstreamError for a repository that is not to be trusted."""
        if command[len(self._persistent_git_options) + 1] not in _HARMLESS:
            _check(str(self.working_dir))
        return super().execute(command, *args, **options)

    def succeeds(self, name: str, *args: str) -> bool:
        """Whether the command `name` ends with code 0."""
        said: Any = self._call_process(name, *args, with_exceptions=False, with_extended_output=True)
        return bool(said[0] == 0)

    def stream(self, on_line: Callable[[str], None], *args: str) -> None:
        """Run `git args`, handing each line of its output to `on_line` as it comes."""
        _check(str(self.working_dir))
        argv = [git.Git.GIT_PYTHON_GIT_EXECUTABLE or "git", *self._persistent_git_options, *args]
        env = {**os.environ, **self.environment(), "LANGUAGE": "C", "LC_ALL": "C"}
        proc.stream(argv, cwd=Path(str(self.working_dir)), env=env, on_line=on_line)


class Repo(git.Repo):
    """A repository whose commands are run by our Git."""

    GitCommandWrapperType = Git
    git: Git


@contextmanager
def commands(folder: Path) -> Iterator[Git]:
    """Give git in `folder`, whether or not that is a repository; its errors become ours, of proc.ProcError."""
    for name in [name for name in os.environ if name.startswith("GIT_") and not _KEPT.fullmatch(name)]:
        # GitPython reads some of them by itself, besides handing all of them on
        del os.environ[name]
    try:
        yield Git(folder)
    except git.CommandError as exc:
        raise _failure(exc) from None
    except (git.GitError, ODBError, ValueError) as exc:
        raise UpstreamError(f"the repository in {folder} cannot be read: {exc}") from exc


@contextmanager
def opened(folder: Path) -> Iterator[Repo]:
    """Open the repository of `folder` itself. Raises UpstreamError where there is none that can be read."""
    with commands(folder):
        try:
            repo = Repo(folder, expand_vars=False)
        except _DAMAGE as exc:
            raise UpstreamError(f"{folder} holds no repository that can be read") from exc
        with repo:
            # without a `.git`, a folder with files like those of one would pass for a bare repository
            if repo.bare or Path(repo.git_dir) == folder:
                raise UpstreamError(f"{folder} holds no repository with a working tree")
            yield repo


@contextmanager
def created(folder: Path, *options: str) -> Iterator[Repo]:
    """Make a repository in `folder` and open it."""
    with commands(folder) as run:
        run.init("--quiet", *options)
    with opened(folder) as repo:
        yield repo


def head(folder: Path) -> str | None:
    """Return the commit that is checked out in `folder`, None where no repository there names one. Starts no git."""
    try:
        with opened(folder) as repo:
            return git.SymbolicReference.dereference_recursive(repo, "HEAD")
    except (UpstreamError, *_DAMAGE):
        return None


def gitlink(folder: Path, path: str) -> str | None:
    """Return the commit of the submodule at `path` in the index of the repository at `folder`."""
    with opened(folder) as repo:
        try:
            entry = repo.index.entries[path, 0]
        except (KeyError, *_DAMAGE):
            # GitPython reads no index of version 4, and half of one that is split
            fields = repo.git.ls_files("--stage", "--", path).split()
            return fields[1] if fields and int(fields[0], 8) == _GITLINK else None
        return entry.hexsha if entry.mode == _GITLINK else None


def check_address(url: str) -> None:
    """Refuse an address by which git would run a program. Raises UpstreamError."""
    try:
        git.Git.check_unsafe_protocols(url)
    except git.UnsafeProtocolError:
        raise UpstreamError(
            f"git would run a program by the address {url}", hint="write one of https, ssh or file in .gitmodules"
        ) from None


def _failure(error: git.CommandError) -> proc.ProcError:
    """Return what a failed command said, without GitPython's frame around it."""
    is_missing = isinstance(error, git.GitCommandNotFound)
    code = error.status if isinstance(error.status, int) else 127
    said = "git: not found" if is_missing else error.stderr.removeprefix("\n  stderr: '").removesuffix("'")
    completed = proc.Completed(tuple(error.command), code, "", said)
    dubious = _DUBIOUS.search(said)
    return DubiousOwnershipError(completed, dubious[1]) if dubious else proc.ProcError(completed)


@functools.cache
def _check(folder: str) -> None:
    """Refuse a repository whose own configuration has a command of ours run a program. Raises UpstreamError.

    Once for each: a second or third process for each command would be felt.
    """
    ask = Git(folder)
    # no code is looked at: there may be no repository, or no configuration of that scope
    listed = [
        ask.config(scope, "--includes", "--list", "--name-only", "-z", with_exceptions=False)
        for scope in ("--local", "--worktree")
    ]
    risky = sorted({name for names in listed for name in names.split("\0") if _RISKY.fullmatch(name)})
    if "core.worktree" in risky and _lies_there(ask, folder):
        risky.remove("core.worktree")
    if risky:
        unset = f"git -C {shlex.quote(folder)} config --unset-all {shlex.quote(risky[0])}"
        raise UpstreamError(
            f"git would run a program or write elsewhere by what the repository in {folder} sets: {', '.join(risky)}",
            hint=f"if it is yours, move it to your own configuration (git config --global); else `{unset}`",
        )


def _lies_there(ask: Git, folder: str) -> bool:
    """Whether the repository's files lie in `folder`, as those of a submodule do, whose `core.worktree` says so."""
    argv = [ask.GIT_PYTHON_GIT_EXECUTABLE or "git", "-C", folder, "rev-parse", "--show-toplevel"]
    top = git.Git.execute(ask, argv, with_exceptions=False)
    return bool(top) and Path(folder).samefile(str(top))
