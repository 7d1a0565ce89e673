"""git, as plain functions: an explicit folder each time, and none of the caller's GIT_* variables."""

from __future__ import annotations

import functools
import os
import re
import shlex
from typing import TYPE_CHECKING

from lora_training import proc, repository
from lora_training.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# A hook or `git rebase --exec` exports GIT_DIR and friends, which would point every call at the wrong repository.
# What says how to reach a server stays: a user's ssh command, certificates, and configuration by environment.
_KEPT = frozenset(
    {
        "GIT_ASKPASS",
        "GIT_CONFIG_COUNT",
        "GIT_CONFIG_GLOBAL",
        "GIT_CONFIG_NOSYSTEM",
        "GIT_CONFIG_PARAMETERS",
        "GIT_CONFIG_SYSTEM",
        "GIT_EXEC_PATH",
        "GIT_SSH",
        "GIT_SSH_COMMAND",
        "GIT_SSL_CAINFO",
        "GIT_SSL_NO_VERIFY",
    }
)
_KEPT_PREFIXES = ("GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_", "GIT_HTTP_", "GIT_TRACE")

# What neither looks at a tree's files nor needs an object that may have to be fetched, so that no program of a
# repository's configuration is reached. They are what we ask of our own checkout, which its owner sets up as he likes.
_HARMLESS = frozenset({"config", "init", "ls-files", "ls-remote", "remote", "update-index"})

# what git says of a repository of another user's, since 2.36 and before
_ANOTHERS = re.compile(r"(?:dubious ownership in repository at|unsafe repository \() ?'(.*?)'")


class AnothersError(proc.ProcError):
    """git refuses to look at the repository at `path`, since it belongs to another user."""

    exit_code = UpstreamError.exit_code

    def __init__(self, completed: proc.Completed, path: str) -> None:
        super().__init__(completed)
        self.message = f"{path} belongs to another user, and git trusts nobody else's repository"
        self.hint = f"if you trust it: git config --global --add safe.directory {shlex.quote(path)}"
        self.args = (self.message,)


def environment() -> dict[str, str]:
    """The environment for a git child: ours without the variables that redirect a repository, never prompting."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or _keep(k)}
    return env | {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


def _keep(name: str) -> bool:
    return name in _KEPT or name.startswith(_KEPT_PREFIXES)


def command(*args: str, cwd: Path) -> list[str]:
    """The command line of `git args` to run in `cwd`, with no hook and no program that the repository there names.

    Raises UpstreamError for a repository whose configuration leaves no way to that.
    """
    if args[0] not in _HARMLESS and args != ("rev-parse", "HEAD"):
        _check(cwd)
    return ["git", *repository.OFF, *args]


@functools.cache
def _check(folder: Path) -> None:
    """Look at each repository once: a second or third process for each command would be felt."""
    repository.check(folder, _in(folder))


def _in(folder: Path) -> dict[str, str]:
    return environment() | {"GIT_CEILING_DIRECTORIES": str(folder.absolute().parent)}


def git(*args: str, cwd: Path, allowed: Sequence[int] = (0,), stdin: str | bytes | None = None) -> str:
    """Run `git args` in `cwd` and return its stdout, unstripped. Raises proc.ProcError on any other code.

    `cwd` is a repository's own folder: git does not look for one above it, so that a damaged repository inside
    another is an error and not the other one.
    """
    try:
        return proc.run(command(*args, cwd=cwd), cwd=cwd, env=_in(cwd), allowed=allowed, stdin=stdin).stdout
    except proc.ProcError as exc:
        anothers = _ANOTHERS.search(exc.completed.stderr)
        if anothers is None:
            raise
        raise AnothersError(exc.completed, anothers[1]) from None


def succeeds(*args: str, cwd: Path) -> bool:
    """Whether `git args` in `cwd` ends with code 0."""
    try:
        git(*args, cwd=cwd)
    except proc.ProcError:
        return False
    return True


def config_values(key: str, *, cwd: Path) -> tuple[str, ...]:
    """All values of a git setting, in git's order; none when it is not set."""
    out = git("config", "--get-all", key, cwd=cwd, allowed=(0, 1))
    return tuple(line for line in out.splitlines() if line)
