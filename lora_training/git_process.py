"""git as a child process, in a clean environment, without GitPython, whose import takes longer than most commands.

A tree may come from a stranger, with its `.git`; git runs programs that a configuration names when it looks at files,
when it brings objects, and for hooks. Neither the shell's variables nor a repository's own configuration decide here.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_training import proc
from lora_training.errors import UpstreamError

# A hook or `git rebase --exec` exports GIT_DIR and friends, which would point every call at the wrong repository.
# The variables for reaching a server stay: a user's ssh command, certificates, and configuration by environment.
_KEPT = re.compile(
    r"GIT_(?:ASKPASS|CONFIG_(?:COUNT|GLOBAL|NOSYSTEM|PARAMETERS|SYSTEM|KEY_.*|VALUE_.*)|EXEC_PATH|HTTP_.*|PYTHON_.*"
    r"|SSH|SSH_COMMAND|SSL_CAINFO|SSL_NO_VERIFY|TRACE.*)"
)
# Given with every command, so that it overrides the repository's own configuration.
OFF = ("core.fsmonitor=false", "core.hooksPath=/dev/null")

# Commands that neither look at a tree's files nor need an object that may have to be fetched, so that no program of a
# repository's configuration is reached. We run them in our own checkout, too, which its owner sets up as he likes.
_HARMLESS = frozenset({"config", "init", "ls-files", "ls-remote", "remote", "rev-parse", "update-index"})

# Other settings that run a program or write outside of the tree, in the commands that we use. Not overridden like the
# above: a user's own `core.sshCommand` or credential helper, in the global configuration, is to be used.
_RISKY = re.compile(
    r"core\.(?:alternaterefscommand|askpass|gitproxy|sshcommand|worktree)|credential\.(?:.*\.)?helper"
    r"|filter\..*\.(?:clean|process|smudge)|hook\..*\.command|http\.(?:.*\.)?savecookies|protocol\..*"
    r"|remote\..*\.(?:uploadpack|vcs)",
    re.DOTALL,
)

# git's message about a repository of another user, since 2.36 and before
_DUBIOUS = re.compile(r"(?:dubious ownership in repository at|unsafe repository \() ?'(.*?)'")
_GITLINK = "160000"


class DubiousOwnershipError(proc.ProcError):
    """git refuses to look at the repository at `path`, since it belongs to another user."""

    exit_code = UpstreamError.exit_code

    def __init__(self, completed: proc.Completed, path: str) -> None:
        super().__init__(completed)
        self.message = f"{path} belongs to another user, and git trusts nobody else's repository"
        self.hint = f"if you trust it: git config --global --add safe.directory {shlex.quote(path)}"
        self.args = (self.message,)


def redirecting() -> list[str]:
    """Return the names of the environment's variables that would point git at another repository."""
    return [name for name in os.environ if name.startswith("GIT_") and not _KEPT.fullmatch(name)]


def settings(folder: Path) -> dict[str, str]:
    """Return the variables for git in `folder`: it looks for no repository above it, and never prompts."""
    return {"GIT_TERMINAL_PROMPT": "0", "GIT_CEILING_DIRECTORIES": str(folder.parent)}


def run(folder: Path, *args: str, allowed: tuple[int, ...] = (0,), env: Mapping[str, str] | None = None) -> str:
    """Run `git args` in the repository of `folder` itself, with the variables `env` too, and return its output.

    Raises proc.ProcError when the code is not in `allowed`, UpstreamError for a repository that is not to be trusted.
    """
    folder = folder.absolute()
    check_command(folder, args)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_") or _KEPT.fullmatch(key)}
    # the folder as an option too, which errors then name
    options = (*OFF, "safe.directory=*") if _is_harmless(args) else OFF
    argv = ["git", "-C", str(folder), *(word for option in options for word in ("-c", option)), *args]
    env = {**kept, **settings(folder), "LANGUAGE": "C", "LC_ALL": "C", **(env or {})}
    try:
        return proc.run(argv, cwd=folder, env=env, allowed=allowed).stdout
    except proc.ProcError as exc:
        raise failure(exc.completed) from None


def failure(completed: proc.Completed) -> proc.ProcError:
    """Return the error for a failed git command."""
    dubious = _DUBIOUS.search(completed.stderr)
    return DubiousOwnershipError(completed, dubious[1]) if dubious else proc.ProcError(completed)


def head(folder: Path) -> str | None:
    """Return the commit that is checked out in `folder`, None where no repository there names one."""
    if not (folder / ".git").exists():
        return None
    try:
        return run(folder, "rev-parse", "--verify", "--quiet", "HEAD").strip()
    except proc.ProcError:
        return None


def gitlink(folder: Path, path: str) -> str | None:
    """Return the commit of the submodule at `path` in the index of the repository at `folder`."""
    fields = run(folder, "ls-files", "--stage", "--", path).split()
    return fields[1] if fields[:1] == [_GITLINK] else None


def check_command(folder: Path, args: Sequence[str]) -> None:
    """Refuse to run `git args` where the repository is not to be trusted. Raises UpstreamError."""
    if not _is_harmless(args):
        check(str(folder))


def _is_harmless(args: Sequence[str]) -> bool:
    # an expression such as `NAME^{commit}` needs an object
    return args[0] in _HARMLESS and not any("^{" in word for word in args)


@functools.cache
def check(folder: str) -> None:
    """Refuse a repository whose own configuration makes git run a program. Raises UpstreamError.

    Once for each repository: another process for each command would be felt.
    """
    names = _setting_names(folder, "--local")
    if "extensions.worktreeconfig" in names:
        names |= _setting_names(folder, "--worktree")
    risky = sorted(name for name in names if _RISKY.fullmatch(name))
    if "core.worktree" in risky:
        # a submodule's files lie where it says
        top = run(Path(folder), "rev-parse", "--show-toplevel", allowed=(0, 1, 128)).removesuffix("\n")
        if top and Path(folder).samefile(top):
            risky.remove("core.worktree")
    if risky:
        unset = f"git -C {shlex.quote(folder)} config --unset-all {shlex.quote(risky[0])}"
        raise UpstreamError(
            f"git would run a program or write elsewhere by what the repository in {folder} sets: {', '.join(risky)}",
            hint=f"if it is yours, move it to your own configuration (git config --global); else `{unset}`",
        )


def _setting_names(folder: str, scope: str) -> set[str]:
    # no code is looked at: there may be no repository, or no configuration of that scope
    listed = run(Path(folder), "config", scope, "--includes", "--list", "--name-only", "-z", allowed=tuple(range(256)))
    return set(listed.split("\0"))
