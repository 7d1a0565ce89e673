"""The cost of each runtime patch a step, against the unpatched step of the same run of this program.

    python -m benchmarks.runtime [--rounds N] [--steps N] [--json FILE]

The smoke model is trained on the real upstream, once a round for every patch alone and for all of them; the rounds
take turns. A figure is the median of its steps over that of the unpatched training in the same round. A step is what
the process spends between two entries in upstream's own loss recorder: processor time, which other work on the machine
still changes by some percent, and the right measure on a CPU only. The time in a patch's watcher is below that noise,
so it is measured by itself (the terms of dataset-loss and safe-clip's clipping are in the step alone). Each training is
forked from one process that has imported everything.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import statistics
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import inside
from lora_training import proc, workspace
from lora_training.config.argv import dataset_document
from lora_training.config.loading import load
from lora_training.runtime import bootstrap, registry

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "smoke.toml"
HEAVY = ("torch", "diffusers", "library.train_util", "library.config_util", "networks.lora")
MODEL = {"tiny-unet": {"block_out_channels": [32, 64, 64, 64]}}
# of every run here, and those for other models and another script
ELSEWHERE = ("tiny-unet", "tiny-models", "blip")
# costs that come with a setting rather than with the switch
SETTINGS: dict[str, dict[str, Any]] = {"dataset-loss": {"loss_scope": "per_dataset"}}
ATTRIBUTES = {"loss_weight": 0.5, "lambda_struct": 0.1, "lambda_light": 0.1, "lambda_color": 0.1, "lambda_tex": 0.1}
# the first steps allocate
WARM_UP = 5


class Cost(NamedTuple):
    """Seconds a step: of the processor in all, and of the clock in the watchers."""

    step: float
    watchers: float


def main() -> None:
    """Measure, and print a table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    patches = [name for name in registry.available() if name not in ELSEWHERE]
    variants = {"none": {}, **{name: _chosen(name) for name in patches}, "all": _chosen(*patches)}
    with tempfile.TemporaryDirectory() as folder:
        rounds = _measure(Path(folder), variants, given.rounds, given.steps)
    _print(rounds)
    if given.json:
        given.json.write_text(json.dumps(rounds, indent=1) + "\n", encoding="utf-8")


def _chosen(*names: str) -> dict[str, Any]:
    return {name: SETTINGS.get(name, {}) for name in names}


def _measure(folder: Path, variants: dict[str, Any], rounds: int, steps: int) -> list[dict[str, Cost]]:
    tree, argv, env = _command(folder, steps)
    # the bootstrap gives the first place to the script's folder
    sys.path.insert(1, str(tree))
    os.environ.update(env)
    for name in HEAVY:
        importlib.import_module(name)
    taken = []
    for _ in range(rounds):
        taken.append({name: _train(folder, argv, chosen) for name, chosen in variants.items()})
        sys.stderr.write(f"round {len(taken)} of {rounds} done\n")
    return taken


def _command(folder: Path, steps: int) -> tuple[Path, list[str], dict[str, str]]:
    """Return the tree, the smoke run's command with another dataset file, and its environment without `LORA_*`."""
    here = workspace.find()
    sets = [f"output_dir={folder}", f"max_train_steps={steps}", f"save_every_n_steps={10 * steps}"]
    config = load(CONFIG, sets=sets, environ={workspace.CACHE_VARIABLE: str(here.cache)})
    document = dataset_document(config) or {}
    document["datasets"][0]["custom_attributes"] = ATTRIBUTES
    (folder / "dataset.json").write_text(json.dumps(document), encoding="utf-8")
    asked = [sys.executable, "-m", "lora_training", "train", str(CONFIG), "--dry-run"]
    line = proc.run([*asked, *(word for each in sets for word in ("--set", each))], cwd=here.root).stdout
    _, tree, _, *words = shlex.split(line)
    start = words.index(sys.executable)
    env = dict(word.split("=", 1) for word in words[:start] if not word.startswith("LORA_"))
    argv = words[start + len(proc.module("lora_training.runtime")) :]
    argv[argv.index("--dataset_config") + 1] = str(folder / "dataset.json")
    return Path(tree), argv, env


def _train(folder: Path, argv: list[str], chosen: dict[str, Any]) -> Cost:
    """Train in a child process; return the medians of its steps."""
    times = folder / "times.json"
    if pid := os.fork():
        _, status = os.waitpid(pid, 0)
        if status:
            sys.exit(f"with {', '.join(chosen) or 'no patch'}: {(folder / 'log.txt').read_text(encoding='utf-8')}")
        stamps, watched = json.loads(times.read_text(encoding="utf-8"))
        medians = (statistics.median(_differences(each)[WARM_UP:]) for each in (stamps, watched))
        return Cost(*medians)
    code = 1
    try:
        code = _in_child(folder, argv, chosen, times)
    except SystemExit as exc:
        code = int(exc.code or 0)
    finally:
        os._exit(code)


def _in_child(folder: Path, argv: list[str], chosen: dict[str, Any], times: Path) -> int:
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    found = inside.follow_steps(inside.time_watchers())
    os.environ["LORA_EVENTS"] = str(folder / "events.jsonl")
    os.environ |= bootstrap.environment(MODEL | chosen)
    os.chdir(Path(argv[0]).parent)
    code = bootstrap.main(argv)
    times.write_text(json.dumps([found["processor"], found["watchers"]]), encoding="utf-8")
    return code


def _differences(values: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(values)]


def _print(rounds: list[dict[str, Cost]]) -> None:
    print("| patch | ms a step | over the unpatched step | from round to round | ms in its watcher | of the step |")
    print("| --- | --- | --- | --- | --- | --- |")
    plain = statistics.median(each["none"].step for each in rounds)
    for name in rounds[0]:
        ratios = [each[name].step / each["none"].step for each in rounds]
        step = statistics.median(each[name].step for each in rounds)
        watchers = statistics.median(each[name].watchers for each in rounds)
        cells = [f"{step * 1000:.1f}", f"{statistics.median(ratios):.3f}", f"{min(ratios):.3f} to {max(ratios):.3f}"]
        cells += [f"{watchers * 1000:.3f}", f"{watchers / plain:.2%}"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
