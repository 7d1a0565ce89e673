"""What a training child is, as data. Pure: nothing is read, started or written here."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class LaunchSpec:
    """A child to start: its command, what it adds to our environment, and its folder."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path

    def shell(self) -> str:
        """The same as one line that a POSIX shell takes."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in sorted(self.env.items())]
        return f"cd {shlex.quote(str(self.cwd))} && {' '.join([*settings, shlex.join(self.argv)])}"


def one_process(  # noqa: PLR0913 - each is a different thing, and all are named
    python: str,
    script: Path,
    flags: Sequence[str],
    *,
    runtime: Mapping[str, str],
    mixed_precision: str,
    cpu_threads: int = 1,
) -> LaunchSpec:
    """One training process, started by `python` itself with the variables that `accelerate launch` would set.

    `accelerate launch` would import torch once more in a process of its own, which costs seconds at each start.
    `flags` are upstream's; `runtime` says which runtime patches to install (`runtime.bootstrap.environment`).
    `cpu_threads` is accelerate's `--num_cpu_threads_per_process` with accelerate's default: more threads than free
    cores make small CPU operations many times slower, not faster.
    """
    env = {
        "ACCELERATE_MIXED_PRECISION": mixed_precision,
        "OMP_NUM_THREADS": str(cpu_threads),
        # upstream's log wraps at the terminal's width, in the middle of the names that matter
        "COLUMNS": "200",
        # lines must reach the log when they are written
        "PYTHONUNBUFFERED": "1",
        **runtime,
    }
    return LaunchSpec((python, "-m", "lora_training.runtime", str(script), *flags), env, script.parent)
