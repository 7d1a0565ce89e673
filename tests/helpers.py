"""Four-line helpers that build real repositories and run the real command line."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def git(*args: str, cwd: Path) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *args], cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def repository(folder: Path, files: dict[str, str]) -> str:
    """A repository with one commit of `files`; the commit."""
    folder.mkdir(parents=True)
    git("init", "-q", "-b", "main", cwd=folder)
    return commit(folder, files)


def without_upstream(root: Path) -> Path:
    """A checkout of this project whose sd-scripts has never been fetched."""
    modules = (
        '[submodule "third_party/sd-scripts"]\npath = third_party/sd-scripts\nurl = https://git.example.invalid/x\n'
    )
    repository(root, {".gitmodules": modules, "patches/.keep": "", "lora_training/.keep": ""})
    pin = "160000,6721028c79ee85a78b3a06dfd8954dae310a1cce,third_party/sd-scripts"
    git("update-index", "--add", "--cacheinfo", pin, cwd=root)
    return root


def commit(folder: Path, files: dict[str, str], message: str = "change") -> str:
    write(folder, files)
    git("add", "-A", cwd=folder)
    git("commit", "-q", "-m", message, cwd=folder)
    return git("rev-parse", "HEAD", cwd=folder)


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def lora(*args: str | Path, cwd: Path, env: dict[str, str] | None = None) -> Ran:
    """`lora args` in a process of its own."""
    argv = [sys.executable, "-m", "lora_training", *map(str, args)]
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    return Ran(done.returncode, done.stdout, done.stderr)


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    lists = [path.read_text(encoding="ascii").split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    found = [int(each) for words in lists for each in words]
    return [*found, *(each for child in found for each in descendants(child))]
