"""Run a story in a checkout and describe what it printed and left behind."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# One path for both checkouts, since configurations and so the digests of runs name it.
BOX = Path("/tmp") / f"lora-blackbox-{os.getpid()}"  # noqa: S108 - private, see `_empty_box`
STORIES = Path(__file__).with_name("stories")
_HANDOVER = "-- handover"
_TIMEOUT_S = 300
_SKIPPED_FOLDERS = {".git", "cache", ".lora", "tensorboard", "__pycache__"}
_SKIPPED_FILES = {"environment.json", "origins.json", "lock", ".lora-upstream.json"}
# so that two equal commits are one
_DATES = {"GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z"}
_VARIABLE = (
    (r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?)?", "<date>"),
    (r"\b\d{14}\b", "<date>"),
    (r"\b1\d{9}\.\d+\b", "<time>"),
    # which steps are printed depends on the machine's speed
    (r"(?m)^step \d+/\d+ .*\n", ""),
    (r"(MASTER_PORT=)\d+", r"\1<port>"),
    (r"\b\d+(\.\d+)? ?(s|ms)\b", "<duration>"),
    (r"\d+(\.\d+)? (GB|MB|GiB|MiB)\b", "<size>"),
    (r'("pid": |process |pid )\d+', r"\1<pid>"),
    (r"--main_process_port \d+", "--main_process_port <port>"),
    (r"tmp[a-z0-9_]{8}", "<tmp>"),
    (r"line \d+: +\d+ Killed", "line <line>: <pid> Killed"),
    (r"<checkout>/\.venv(-dev)?/", "<checkout>/.venv/"),
)


@dataclass(frozen=True)
class Story:
    """Shell lines that run one after the other in an empty folder.

    `before` prepares the folder and is not compared. A story with `handover` is also run with the lines before
    that index in the old checkout and the others in the new one.
    """

    name: str
    lines: tuple[str, ...]
    before: str = ""
    handover: int | None = None


def stories() -> list[Story]:
    """Read `stories/*.txt`: `== NAME`, perhaps `before: SHELL`, then one command line a line, perhaps `-- handover`."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(STORIES.glob("*.txt"))]
    return [_story(text) for whole in texts for text in re.split(r"^== ", whole, flags=re.MULTILINE)[1:]]


def _story(text: str) -> Story:
    name, *lines = filter(None, text.splitlines())
    before = lines.pop(0).removeprefix("before: ") if lines[0].startswith("before: ") else ""
    handover = lines.index(_HANDOVER) if _HANDOVER in lines else None
    return Story(name, tuple(line for line in lines if line != _HANDOVER), before, handover)


@dataclass
class Told:
    """The steps of a story, each as command, exit code, stdout and stderr, and the files at its end."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


def _empty_box() -> None:
    """Empty the box; refuse one that belongs to somebody else."""
    if BOX.exists() and BOX.stat().st_uid != os.getuid():
        raise SystemExit(f"{BOX} belongs to another user")
    shutil.rmtree(BOX, ignore_errors=True)
    BOX.mkdir(mode=0o700)


def run(story: Story, checkouts: list[Path]) -> Told:
    """Run a story; `checkouts` names the checkout of each of its lines."""
    _empty_box()
    prelude = (STORIES / "prelude.sh").read_text(encoding="utf-8")
    told = Told()
    _bash(f"{prelude}\n{story.before}", checkouts[0], check=True)
    for line, checkout in zip(story.lines, checkouts, strict=True):
        done = _bash(f"{prelude}\n{line}", checkout)
        told.steps.append(
            {
                "line": line,
                "code": done.returncode,
                "stdout": _plain(done.stdout, {checkout}),
                "stderr": _plain(done.stderr, {checkout}),
            }
        )
    told.files = _files(set(checkouts))
    return told


def _bash(script: str, checkout: Path, *, check: bool = False) -> subprocess.CompletedProcess[str]:
    kept = {"PATH", "LANG", "LC_ALL", "SSL_CERT_FILE"}
    home = {name: value for name, value in os.environ.items() if name in kept}
    # the user's own git configuration leads to a mirror, where there is one
    git = {"GIT_CONFIG_GLOBAL": os.environ.get("GIT_CONFIG_GLOBAL", str(Path("~/.gitconfig").expanduser()))}
    ours = {
        "HOME": str(BOX),
        "CHECKOUT": str(checkout),
        "LORA_CACHE": str(BOX / "cache"),
        "LORA_RUNS": str(BOX / "cache" / "runs"),
        "STORIES": str(STORIES),
        "COLUMNS": "200",
        **_DATES,
    }
    path = {"PATH": f"{checkout / '.venv/bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=BOX,
        env={**home, **git, **ours, **path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_TIMEOUT_S,
        check=False,
    )
    if check and done.returncode:
        raise SystemExit(f"a story cannot be prepared:\n{script}\n{done.stderr}")
    return done


def _plain(text: str, checkouts: set[Path]) -> str:
    for checkout in checkouts:
        text = text.replace(str(checkout), "<checkout>")
    for pattern, word in _VARIABLE:
        text = re.sub(pattern, word, text)
    return text


def _files(checkouts: set[Path]) -> dict[str, str]:
    found = {}
    for base, folders, files in os.walk(BOX):
        folders[:] = sorted(set(folders) - _SKIPPED_FOLDERS)
        for name in sorted(set(files) - _SKIPPED_FILES):
            path = Path(base) / name
            found[str(path.relative_to(BOX))] = _described(path, checkouts)
    return found


def _described(path: Path, checkouts: set[Path]) -> str:
    """Mode and digest of a file, without what differs between two equal runs."""
    status = path.lstat()
    mode = stat.filemode(status.st_mode)
    if path.is_symlink():
        return f"{mode} -> {path.readlink()}"
    if path.suffix == ".safetensors":
        return f"{mode} {_tensors(path)}"
    if path.name == "run.json" or path.suffix == ".jsonl":
        return f"{mode} {_keys(path)}"
    if path.suffix in (".log", ".pt", ".bin", ".pkl"):
        return mode
    text = _plain(path.read_bytes().decode("latin-1"), checkouts)
    return f"{mode} {hashlib.sha256(text.encode('latin-1')).hexdigest()[:16]}"


def _tensors(path: Path) -> str:
    """Digest of a safetensors file's tensors, and the names in its metadata."""
    data = path.read_bytes()
    if len(data) < 8 or (size := struct.unpack("<Q", data[:8])[0]) > len(data) - 8:
        return hashlib.sha256(data).hexdigest()[:16]
    header = json.loads(data[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    body = hashlib.sha256(json.dumps(header, sort_keys=True).encode() + data[8 + size :])
    return f"{body.hexdigest()[:16]} {','.join(sorted(metadata))}"


def _keys(path: Path) -> str:
    """The keys of each JSON object of a file, in order, each set of keys once."""
    text = path.read_text(encoding="utf-8", errors="replace")
    documents = text.splitlines() if path.suffix == ".jsonl" else [text]
    try:
        found = [",".join(sorted(json.loads(document))) for document in documents]
    except ValueError:
        return "not JSON"
    return "; ".join(dict.fromkeys(found))
