"""The environment that tests run in: of the shell's, what leads to programs, packages and servers, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

_KEPT = re.compile(
    r"PATH|LD_LIBRARY_PATH|TMPDIR|TERM|USER|LOGNAME|SSL_CERT_(?:FILE|DIR)|(?i:(?:all|http|https|no)_proxy)"
    r"|PIP_(?:CERT|CLIENT_CERT|CONFIG_FILE|DEFAULT_TIMEOUT|EXTRA_INDEX_URL|FIND_LINKS|INDEX_URL|NO_INDEX|TRUSTED_HOST)"
    r"|UV_(?:CACHE_DIR|DEFAULT_INDEX|INDEX|NATIVE_TLS)|DOCKER_\w+|CONTAINER_HOST|(?:COV|COVERAGE|PYTEST)_\w+"
)
# where repositories are reached, and which are trusted
_GIT_KEPT = ("url.", "http.", "https.", "protocol.", "credential.", "safe.", "uploadpack.", "lora.", "core.sshcommand")


def take(home: Path) -> None:
    """Leave the shell's environment for one whose home is `home`."""
    kept = {name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)}
    kept.setdefault("UV_CACHE_DIR", str(Path("~/.cache/uv").expanduser()))
    pip = Path("~/.config/pip/pip.conf").expanduser()
    if pip.exists():
        kept.setdefault("PIP_CONFIG_FILE", str(pip))
    config = home / "gitconfig"
    config.write_bytes(b"")
    for key, value in _git_settings():
        subprocess.run(["git", "config", "--file", config, "--add", key, value], check=True)
    os.environ.clear()
    os.environ.update(kept, HOME=str(home), LANG="C.UTF-8", GIT_CONFIG_GLOBAL=str(config), GIT_CONFIG_NOSYSTEM="1")


def _git_settings() -> list[tuple[str, str]]:
    """What of the user's own git configuration stays."""
    # from the root folder, where no repository adds to it
    argv = ["git", "config", "--list", "--includes", "-z"]
    env = {name: value for name, value in os.environ.items() if name not in {"GIT_DIR", "GIT_WORK_TREE", "GIT_CONFIG"}}
    said = subprocess.run(argv, cwd="/", env=env, check=False, stdout=subprocess.PIPE, text=True).stdout
    entries = (entry.partition("\n") for entry in said.split("\0") if "\n" in entry)
    return [(key, value) for key, _, value in entries if key.startswith(_GIT_KEPT)]
