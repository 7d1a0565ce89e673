"""What a repository's own configuration must not decide: a tree, with its `.git`, may come from a stranger.

git runs programs that a configuration names: when it looks at files, when it brings objects, and for hooks.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from lora_training import proc
from lora_training.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# Given with every command, so that it overrides what the repository says.
OFF = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")

# What else runs a program or writes outside of the tree, in the commands that we use. Not to be overridden like the
# above: a user's own `core.sshCommand` or credential helper, in the global configuration, is to be used.
_RISKY = re.compile(
    r"core\.(?:alternaterefscommand|askpass|gitproxy|sshcommand|worktree)|credential\.(?:.*\.)?helper"
    r"|filter\..*\.(?:clean|process|smudge)|hook\..*\.command|http\.(?:.*\.)?savecookies|protocol\..*"
    r"|remote\..*\.(?:uploadpack|vcs)",
    re.DOTALL,
)


def check(folder: Path, env: Mapping[str, str]) -> None:
    """Refuse a repository whose own configuration has a command of ours run a program. Raises UpstreamError."""
    risky = sorted({name for name in _settings(folder, env) if _RISKY.fullmatch(name)})
    if "core.worktree" in risky and _lies_there(folder, env):
        risky.remove("core.worktree")
    if risky:
        unset = f"git -C {shlex.quote(str(folder))} config --unset-all {shlex.quote(risky[0])}"
        raise UpstreamError(
            f"git would run a program or write elsewhere by what the repository in {folder} sets: {', '.join(risky)}",
            hint=f"if it is yours, move it to your own configuration (git config --global); else `{unset}`",
        )


def _settings(folder: Path, env: Mapping[str, str]) -> Iterator[str]:
    """The names of what the repository itself sets, with the files that it includes."""
    for scope in ("--local", "--worktree"):
        # a code of 128: this is no repository, or it has no configuration of that scope
        argv = ["git", *OFF, "config", scope, "--includes", "--list", "--name-only", "-z"]
        yield from proc.run(argv, cwd=folder, env=env, allowed=(0, 128)).stdout.split("\0")


def _lies_there(folder: Path, env: Mapping[str, str]) -> bool:
    """Whether the repository's files lie in `folder`, as those of a submodule do, whose `core.worktree` says so."""
    argv = ["git", *OFF, "rev-parse", "--show-toplevel"]
    top = proc.run(argv, cwd=folder, env=env, allowed=(0, 128)).stdout.removesuffix("\n")
    return bool(top) and folder.samefile(top)
