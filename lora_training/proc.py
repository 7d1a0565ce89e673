"""Runs short child processes. A training, which lasts for hours, is run by `supervise`."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_training.errors import LoraError

_TAIL_LINES = 12
# for `run`, when only the output matters
ANY_CODE = range(-64, 256)
# the exit code that a shell has for a program that does not exist
NOT_FOUND = 127


@dataclass(frozen=True)
class Completed:
    """A finished child process: its command, exit code and output (both streams as text)."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


class ProcError(LoraError):
    """A child process ended with an unexpected code or could not be started. Carries its output."""

    def __init__(self, completed: Completed) -> None:
        self.completed = completed
        last = (completed.stderr or completed.stdout).strip().splitlines()[-_TAIL_LINES:]
        message = f"`{shlex.join(completed.argv)}` ended with code {completed.returncode}"
        super().__init__(message, hint="\n".join(last) or None)


def module(name: str, python: str = sys.executable) -> tuple[str, ...]:
    """Return the command that runs a Python module as `python -m` does, but imports nothing from the current folder."""
    if sys.version_info >= (3, 11):
        return (python, "-P", "-m", name)
    start = f"import sys; del sys.path[0]; import runpy; runpy.run_module({name!r}, None, '__main__', True)"
    return (python, "-c", start)


def run(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    stdin: str | bytes | None = None,
    allowed: Sequence[int] = (0,),
    timeout_s: float | None = None,
) -> Completed:
    """Run `argv` in `cwd` to its end and return its output.

    Raises ProcError when the code is not in `allowed`, the program does not exist (code 127), or it has not ended
    within `timeout_s` and was killed (code 124).
    """
    data = stdin.encode() if isinstance(stdin, str) else stdin
    try:
        # without input, an empty one: a child must never wait for the terminal
        done = subprocess.run(
            list(argv), cwd=cwd, env=env, capture_output=True, check=False, input=data or b"", timeout=timeout_s
        )
    except subprocess.TimeoutExpired as exc:
        raise ProcError(Completed(tuple(argv), 124, "", f"not done after {timeout_s:g} seconds")) from exc
    except FileNotFoundError as exc:
        raise ProcError(Completed(tuple(argv), NOT_FOUND, "", f"{exc.filename}: not found")) from exc
    texts = (data.decode("utf-8", "surrogateescape") for data in (done.stdout, done.stderr))
    completed = Completed(tuple(argv), done.returncode, *texts)
    if completed.returncode not in allowed:
        raise ProcError(completed)
    return completed


def stream(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None],
) -> None:
    """Run `argv` in `cwd`, handing each line of both its streams to `on_line` as it comes.

    A carriage return ends a line too, so that progress meters come through. The child is killed when anything,
    a Ctrl-C included, ends the wait early. Raises ProcError, with the last lines, on any code but 0.
    """
    said: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        # as text, a lone carriage return ends a line too
        child = subprocess.Popen(
            list(argv),
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
    except FileNotFoundError as exc:
        raise ProcError(Completed(tuple(argv), NOT_FOUND, "", f"{exc.filename}: not found")) from exc
    with child:
        try:
            for line in filter(None, map(str.strip, child.stdout or ())):
                said.append(line)
                on_line(line)
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        raise ProcError(Completed(tuple(argv), child.returncode, "", "\n".join(said)))
