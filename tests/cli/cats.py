"""A configuration of its own, trained through the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lora_training import workspace
from tests.helpers import ROOT, Ran, lora

SMOKE = ROOT / "configs" / "smoke.toml"
SAVING = ("save_every_n_steps=2", "save_state=true")


class Cats:
    """The smoke run's model and images as anybody's: trained into `out`, and nothing is put aside unasked."""

    def __init__(self, folder: Path) -> None:
        assets = workspace.Workspace(ROOT).cache / "smoke"
        if not assets.exists():
            subprocess.run([sys.executable, "-m", "lora_training.smoke.make", str(assets)], cwd=ROOT, check=True)
        self.out = folder / "out"
        self.file = folder / "cats.toml"
        text = SMOKE.read_text(encoding="utf-8").replace('assets = "smoke"', "retries = 0")
        text = text.replace('"../output/smoke"', '"out"').replace('output_name = "smoke"', 'output_name = "cats"')
        self.file.write_text(text, encoding="utf-8")

    def words(self, *sets: str) -> list[str]:
        return ["train", str(self.file), *(word for item in (*SAVING, *sets) for word in ("--set", item))]

    def train(self, *sets: str, resume: Path | str = "auto", env: dict[str, str] | None = None) -> Ran:
        return lora(*self.words(*sets), "--resume", str(resume), cwd=ROOT, env=env)

    def stopped(self, *sets: str) -> Path:
        """Train until there is a step, then stop; the state that the stop left."""
        argv = [sys.executable, "-m", "lora_training", *self.words(*sets, "max_train_steps=100000")]
        events = self.out / "cats.run" / "events.jsonl"
        running = subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while running.poll() is None and not (events.exists() and b'"step"' in events.read_bytes()):
            # a loop without a pause takes a core from the training
            time.sleep(0.05)
        running.send_signal(signal.SIGTERM)
        assert running.wait() == 143
        return max(self.out.glob("cats-step*-state"))

    def record(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.out / f"{name}.run" / "run.json").read_text(encoding="utf-8")))

    def events(self, name: str, kind: str) -> list[dict[str, Any]]:
        lines = (self.out / f"{name}.run" / "events.jsonl").read_text(encoding="utf-8").splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == kind]
