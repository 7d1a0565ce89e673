"""The time to the first step of a training, and the cost of supervision after it, beside `accelerate launch`.

    python -m benchmarks.launching [--pairs N] [--steps N] [--write FILE]

Both train the smoke model on the real upstream with the same flags: `lora train`, and what upstream's README gives,
`accelerate launch --num_cpu_threads_per_process 1 train_network.py ...`. They take turns, and each starts a fresh
process. The first step is there when upstream's own progress bar says so. The smoke model is narrower than upstream
knows, so `accelerate launch` starts `benchmarks/inside.py`, which sets its widths and runs upstream's script.

What supervision costs a step is the processor time of `lora`'s own process between the first step and the last, as a
part of the processor time that the same step takes in the training started by `accelerate launch`. The hooks inside
the training are measured by `benchmarks.runtime`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from benchmarks import inside

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "smoke.toml"
TINY = {"tiny-unet": {"block_out_channels": [32, 64, 64, 64]}}


class Started(NamedTuple):
    """A training that has ended: seconds to its first step, and its own processor time a step after it."""

    first_step: float
    each: float


def main() -> None:
    """Measure, and print the results."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pairs", type=int, default=5)
    options.add_argument("--steps", type=int, default=100)
    options.add_argument("--write", type=Path)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _lora(folder / "warm", 2)
        pairs = [_pair(folder / str(number)) for number in range(given.pairs)]
        cost = _supervision(folder, given.steps)
    text = _table(pairs, *cost)
    print(text)
    if given.write:
        given.write.write_text(text + "\n", encoding="utf-8")


def _pair(folder: Path) -> tuple[float, float]:
    """Return the seconds to the first step: of `lora train`, and of `accelerate launch`."""
    # as upstream is seen, so that both are known by the same bar
    ours = _lora(folder / "lora", 2, "--verbose").first_step
    return ours, _accelerate(folder, _flags(folder / "lora"), 2).first_step


def _supervision(folder: Path, steps: int) -> tuple[float, float]:
    """Return processor seconds a step: of `lora`'s own process, and of bare upstream's training."""
    ours = _lora(folder / "long" / "lora", steps).each
    return ours, _accelerate(folder / "long", _flags(folder / "long" / "lora"), steps).each


def _lora(output: Path, steps: int, *verbose: str) -> Started:
    sets = [f"output_dir={output}", f"max_train_steps={steps}", "save_every_n_steps=1000000"]
    argv = [sys.executable, "-m", "lora_training", "train", str(CONFIG), *verbose]
    return _watch([*argv, *(word for each in sets for word in ("--set", each))], ROOT, {}, steps)


def _flags(output: Path) -> list[str]:
    """Return upstream's flags in the recorded command of the run."""
    words = shlex.split((output / "smoke.run" / "command.sh").read_text(encoding="utf-8"))
    return words[next(at for at, word in enumerate(words) if word.endswith("train_network.py")) :]


def _accelerate(folder: Path, words: list[str], steps: int) -> Started:
    flags = [str(folder / "theirs") if after == "--output_dir" else word for after, word in pairwise(["", *words])]
    env = {"SEEN": str(folder / "seen.json"), "LORA_RUNTIME": json.dumps(TINY), "PYTHONPATH": str(ROOT)}
    found = _watch([*inside.ACCELERATE, *flags], Path(words[0]).parent, env, steps)
    seen = json.loads((folder / "seen.json").read_text(encoding="utf-8"))["processor"]
    return found._replace(each=statistics.median(after - before for before, after in pairwise(seen)))


def _watch(argv: list[str], cwd: Path, env: dict[str, str], steps: int) -> Started:
    """Start a training and follow its progress bar."""
    bar = re.compile(rf"steps?\b.* (\d+)/{steps} ")
    began, first = time.monotonic(), 0.0
    spent: list[tuple[int, float]] = []
    said = []
    with subprocess.Popen(
        argv,
        cwd=cwd,
        env=os.environ | env | {"CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as started:
        for line in started.stdout or ():
            said.append(line)
            found = bar.search(line)
            if found and int(found[1]) > 0:
                first = first or time.monotonic() - began
                spent.append((int(found[1]), inside.processor_time(started.pid)))
    if started.returncode:
        sys.exit("".join(said))
    (step, before), (last, after) = spent[0], spent[-1]
    return Started(first, (after - before) / max(1, last - step))


def _table(pairs: list[tuple[float, float]], supervision: float, bare: float) -> str:
    rows = [f"| {ours:.1f} | {theirs:.1f} | {ours / theirs:.2f} |" for ours, theirs in pairs]
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    lines = [
        "# Benchmarks: launching",
        "",
        "Written by `python -m benchmarks.launching --write docs/launching.md`. Seconds to the first step of the smoke",
        f"run, on {os.cpu_count()} processors with a load of {load} at the end.",
        "",
        "| lora train | accelerate launch | ratio |",
        "| --- | --- | --- |",
        *rows,
        "",
        f"Median ratio: {ratio:.2f}.",
        "",
        f"Supervision: {1000 * supervision:.2f} ms of processor time a step in `lora`'s own process; a step of bare",
        f"upstream takes {1000 * bare:.1f} ms; that is {100 * supervision / bare:.2f} %.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
