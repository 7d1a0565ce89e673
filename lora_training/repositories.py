"""The door to git's objects and settings: GitPython, whose commands run as those of `git_process`.

Importing GitPython takes a tenth of a second: import this where it is used.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# where there is no git, as in our container image, the import is to succeed all the same
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import git
from git.exc import ODBError

from lora_training import git_process, proc
from lora_training.errors import UpstreamError

# GitPython's errors for files of a repository that are damaged
_DAMAGE = (git.GitError, ODBError, struct.error, AssertionError, OSError, TypeError, ValueError)
# for output that is not text
RAW: dict[str, bool] = {"stdout_as_string": False, "strip_newline_in_stdout": False}


class Git(git.Git):
    """Commands in one folder. git looks for no repository above it, never prompts, and runs no program of a stranger's.

    A damaged repository inside another is an error, and not the other one.
    """

    def __init__(self, working_dir: str | os.PathLike[str] | None = None) -> None:
        folder = Path(working_dir or ".").absolute()
        super().__init__(folder)
        # the folder as an option too: in one that is gone, GitPython would run git in the current one
        self.set_persistent_git_options(C=str(folder), c=git_process.OFF)
        self.update_environment(**git_process.settings(folder))

    def execute(self, command: Any, *args: Any, **options: Any) -> Any:
        """Run a command line of GitPython's. Raises UpstreamError for a repository that is not to be trusted."""
        git_process.check_command(Path(str(self.working_dir)), command[len(self._persistent_git_options) + 1 :])
        return super().execute(command, *args, **options)

    def succeeds(self, name: str, *args: str) -> bool:
        """Whether the command `name` ends with code 0."""
        said: Any = self._call_process(name, *args, with_exceptions=False, with_extended_output=True)
        return bool(said[0] == 0)

    def stream(self, on_line: Callable[[str], None], *args: str) -> None:
        """Run `git args`, handing each line of its output to `on_line` as it comes."""
        git_process.check(str(self.working_dir))
        argv = [git.Git.GIT_PYTHON_GIT_EXECUTABLE or "git", *self._persistent_git_options, *args]
        env = {**os.environ, **self.environment(), "LANGUAGE": "C", "LC_ALL": "C"}
        proc.stream(argv, cwd=Path(str(self.working_dir)), env=env, on_line=on_line)


class Repo(git.Repo):
    """A repository whose commands are run by our Git."""

    GitCommandWrapperType = Git
    git: Git


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    """Raise GitPython's errors as proc.ProcError and UpstreamError."""
    try:
        yield
    except git.CommandError as exc:
        raise _failure(exc) from None
    except (git.GitError, ODBError, ValueError) as exc:
        raise UpstreamError(f"the repository in {folder} cannot be read: {exc}") from exc


@contextmanager
def opened(folder: Path) -> Iterator[Repo]:
    """Open the repository of `folder` itself. Raises UpstreamError where there is none that can be read."""
    for name in git_process.redirecting():
        # GitPython reads some of them by itself, besides handing all of them on
        del os.environ[name]
    with _translated(folder):
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
    git_process.run(folder, "init", "--quiet", *options)
    with opened(folder) as repo:
        yield repo


def check_address(url: str) -> None:
    """Refuse an address by which git would run a program. Raises UpstreamError."""
    try:
        git.Git.check_unsafe_protocols(url)
    except git.UnsafeProtocolError:
        raise UpstreamError(
            f"git would run a program by the address {url}", hint="write one of https, ssh or file in .gitmodules"
        ) from None


def _failure(error: git.CommandError) -> proc.ProcError:
    """Return the failed command and its output, without GitPython's frame around it."""
    is_missing = isinstance(error, git.GitCommandNotFound)
    code = error.status if isinstance(error.status, int) else 127
    said = "git: not found" if is_missing else error.stderr.removeprefix("\n  stderr: '").removesuffix("'")
    return git_process.failure(proc.Completed(tuple(error.command), code, "", said))
