"""The part of a benchmark in the training process: `python benchmarks/inside.py SCRIPT [FLAGS]`, in upstream's tree.

It runs upstream's script as `python SCRIPT` does, with the runtime patches that LORA_RUNTIME chooses, and writes its
notes of each step to the file SEEN.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# as upstream's documentation starts a script
ACCELERATE = (sys.executable, "-m", "accelerate.commands.launch", "--num_cpu_threads_per_process", "1", __file__)


def processor_time(pid: int) -> float:
    """Return the processor time of one process, in seconds, without that of its children that are still running."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def follow_steps(watchers: list[float]) -> dict[str, list[float]]:
    """Note at each loss that upstream records: the clock, the processor time of this process, that of `watchers`."""
    recorder = importlib.import_module("library.logging_util").LossRecorder
    original = recorder.add
    found: dict[str, list[float]] = {"clock": [], "processor": [], "watchers": [], "losses": []}

    def add(self: object, **given: Any) -> None:
        for name, value in (
            ("clock", time.perf_counter()),
            ("processor", time.process_time()),
            ("watchers", sum(watchers)),
            ("losses", float(given["loss"])),
        ):
            found[name].append(value)
        original(self, **given)

    recorder.add = add
    return found


def time_watchers() -> list[float]:
    """Time the patches' watchers; the only item of the list is the seconds spent in them so far."""
    from lora_training.runtime.run import Run

    spent = [0.0]

    def timed(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = time.perf_counter()
            try:
                return original(*args)
            finally:
                spent[0] += time.perf_counter() - start

        return call

    Run.tell, Run.agree = timed(Run.tell), timed(Run.agree)
    return spent


def count_synchronizing() -> list[int]:
    """Count the calls that wait for the GPU; the only item of the list is their number so far."""
    import torch

    calls, show = [0], warnings.showwarning

    def count(message: Any, *args: Any, **kwargs: Any) -> None:
        if "synchronizing" in str(message):
            calls[0] += 1
        else:
            show(message, *args, **kwargs)

    warnings.simplefilter("always")
    warnings.showwarning = count
    torch.cuda.set_sync_debug_mode("warn")
    return calls


def main() -> None:
    """Run the script; write the notes at its end."""
    script, *flags = sys.argv[1:]
    sys.path[0] = str(Path(script).parent)
    import torch

    watchers = [0.0]
    if chosen := json.loads(os.environ.get("LORA_RUNTIME", "{}")):
        from lora_training.runtime import registry
        from lora_training.runtime.model import Start

        registry.install(chosen, Path(script).parent, Start(tuple(flags), os.environ))
        watchers = time_watchers()
    calls = count_synchronizing() if "COUNT_SYNCHRONIZING" in os.environ and torch.cuda.is_available() else [0]
    found = follow_steps(watchers)

    def write() -> None:
        peak = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
        noted = {**found, "synchronizing": calls[0], "memory_mb": peak}
        Path(os.environ["SEEN"]).write_text(json.dumps(noted), encoding="utf-8")

    atexit.register(write)
    sys.argv = [script, *flags]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
