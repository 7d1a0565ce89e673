"""Which GPUs there are, found without importing torch."""

from __future__ import annotations

import shutil
import subprocess
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def there(environ: Mapping[str, str], count: Callable[[], int]) -> int:
    """How many GPUs a training may use; `count` gives the machine's own number, CUDA_VISIBLE_DEVICES takes from it.

    As torch has it, the list ends at its first entry that is no device. A training forced onto the CPU
    (ACCELERATE_USE_CPU) has none.
    """
    if environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes"}:
        return 0
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count()
    listed = [entry.strip() for entry in visible.split(",")]
    real = list(takewhile(lambda entry: entry and not entry.startswith("-"), listed))
    return min(len(real), count()) if real else 0


def installed() -> int:
    """The number of NVIDIA GPUs that the driver knows."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    done = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False, timeout=60)
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())
