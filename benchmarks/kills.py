"""One long run that is killed at random moments, over and over, beside the same run left alone.

    python -m benchmarks.kills [--kills N] [--steps N] [--processes N] [--seed N] [--folder DIR]

The smoke model is trained on the real upstream, in one process or in several ranks. Each kill is a SIGKILL to one of:
`lora` itself, the process that it started, a rank. Half of them come at any moment after a start, the imports
included; the others, so that the run gets anywhere, soon after a state was saved. When `lora` was killed, or gives up
on a training that died before it began, the same command is given again. In the end every file that the undisturbed
run has must be there, no other, and every tensor in it the same, bit for bit; and nothing may still be at work.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "smoke.toml"
# Seconds in which the processes of a killed `lora` must end.
OUTLIVE_S = 5.0


class Trial:
    """One run, killed `kills` times."""

    def __init__(self, folder: Path, sets: list[str], kills: int, seed: int) -> None:
        self.folder, self.sets, self.left = folder, sets, kills
        self.random = random.Random(seed)
        self.killed: Counter[str] = Counter()
        self.starts = 0
        self.slowest_end = 0.0

    def run(self) -> None:
        """Start the run again after each kill, until it is complete."""
        while True:
            started = self._start()
            while self.left and self._kill_one(started):
                pass
            code = started.wait()
            self._assert_nothing_left(started.pid)
            if code == 0:
                return
            print(f"{time.strftime('%X')} code {code}; {self.left} kills left, {self._told('step')} steps", flush=True)

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        argv = [sys.executable, "-m", "lora_training", "train", str(CONFIG)]
        argv += [word for each in (*self.sets, f"output_dir={self.folder}") for word in ("--set", each)]
        with self.folder.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log)

    def _kill_one(self, started: subprocess.Popen[bytes]) -> bool:
        """Kill a process after a random time; return whether `lora` is still alive."""
        if self.random.choice((True, False)):
            self._wait(started, self.random.uniform(0, 25))
        else:
            before = self._told("state")
            while started.poll() is None and self._told("state") == before:
                time.sleep(0.05)
            self._wait(started, self.random.uniform(0, 2))
        victims = _family(started.pid)
        if started.poll() is not None or not victims:
            return started.poll() is None
        role = self.random.choice(sorted(victims))
        try:
            os.kill(victims[role], signal.SIGKILL)
        except ProcessLookupError:
            return True
        self.killed[role.split()[0]] += 1
        self.left -= 1
        return role != "lora"

    @staticmethod
    def _wait(started: subprocess.Popen[bytes], seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and started.poll() is None:
            time.sleep(0.02)

    def _told(self, kind: str) -> int:
        """Return the number of events of that kind, in all attempts."""
        events = self.folder / "smoke.run" / "events.jsonl"
        lines = events.read_text(encoding="utf-8").splitlines() if events.exists() else []
        return sum(f'"event": "{kind}"' in line for line in lines)

    def _assert_nothing_left(self, pid: int) -> None:
        ended = time.monotonic()
        while _family(pid):
            if time.monotonic() - ended > OUTLIVE_S:
                raise AssertionError(f"still at work after {OUTLIVE_S} s: {_family(pid)}")
        self.slowest_end = max(self.slowest_end, time.monotonic() - ended)


def _family(supervisor: int) -> dict[str, int]:
    """Return `lora` and its child processes, by role."""
    found = {}
    mark = f"LORA_SUPERVISOR={supervisor}"
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environ = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            state = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state == "Z":
            continue
        if entry.name == str(supervisor):
            found["lora"] = supervisor
        elif mark in environ:
            rank = next((word for word in environ if word.startswith("RANK=")), None)
            found[f"rank {rank}" if rank else "child"] = int(entry.name)
    return found


def _tensors(path: Path) -> dict[str, bytes]:
    from safetensors.numpy import load_file

    return {name: value.tobytes() for name, value in load_file(path).items()}


def _compare(whole: Path, killed: Path) -> int:
    """Return the number of LoRA files; raise AssertionError if one of them differs."""
    names = sorted(path.name for path in whole.iterdir())
    others = sorted(path.name for path in killed.iterdir())
    if names != others:
        raise AssertionError(f"other files: {sorted(set(names) ^ set(others))}")
    loras = [name for name in names if name.endswith(".safetensors")]
    for name in loras:
        if _tensors(whole / name) != _tensors(killed / name):
            raise AssertionError(f"{name} differs")
    return len(loras)


def main() -> None:
    """Train twice, once with kills, compare, and print the result."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=100)
    options.add_argument("--steps", type=int, default=1500)
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--folder", type=Path)
    given = options.parse_args()
    sets = [f"max_train_steps={given.steps}", "save_every_n_steps=5", "save_state=true", "save_last_n_steps_state=5"]
    if given.processes > 1:
        sets += [f"launch.num_processes={given.processes}", "launch.backend=filestore"]
    folder = given.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    whole = Trial(folder / "whole", sets, 0, given.seed)
    whole.run()
    trial = Trial(folder / "killed", sets, given.kills, given.seed)
    trial.run()
    loras = _compare(whole.folder, trial.folder)
    document = {"kills": dict(trial.killed), "not_used": trial.left, "starts_of_lora": trial.starts, "loras": loras}
    document |= {"steps": given.steps, "processes": given.processes, "slowest_end_s": round(trial.slowest_end, 2)}
    attempts = json.loads((trial.folder / "smoke.run" / "run.json").read_text(encoding="utf-8"))["attempts"]
    print(json.dumps(document | {"attempts_of_last_start": len(attempts)}))
    print("every file is there and every tensor is the same")


if __name__ == "__main__":
    main()
