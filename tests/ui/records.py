"""Runs as their records have them, without a training."""

from __future__ import annotations

import json
import struct
import time
import zlib
from pathlib import Path
from typing import Any

from lora_training import workspace
from lora_training.supervise import record, run_index
from tests.helpers import ROOT

MADE_BY = {"config": "c0ffee" * 10, "upstream": "6721028c79ee85a78b3a06dfd8954dae310a1cce", "patches": "ab" * 32}
CONFIG = 'script = "train_network"\n\n[flags]\nlearning_rate = {rate}\nnetwork_dim = 4\noutput_name = "{name}"\n'


class Made:
    """A run's folder with its record; events are appended as the training and the supervisor do."""

    def __init__(self, folder: Path, name: str = "cats", *, rate: float = 1e-3, **fields: Any) -> None:
        self.output = folder / f"{name}.safetensors"
        self.folder = folder / f"{name}.run"
        self.folder.mkdir(parents=True)
        (self.folder / "config.toml").write_text(CONFIG.format(rate=rate, name=name), encoding="utf-8")
        log = self.folder / "attempt-1.log"
        log.write_text("loading\n", encoding="utf-8")
        given = {"state": "complete", "attempts": [{"log": str(log), "from_step": 0}], **fields}
        given = {"config": str(folder / f"{name}.toml"), "output": str(self.output), **given}
        self.run = record.Record(name=name, command="python train", made_by=MADE_BY, **given)
        self.run.save(self.folder)
        (self.folder / "lock").touch()
        self.events = self.folder / record.EVENTS
        self.events.touch()
        run_index.add(workspace.Workspace(ROOT), self.folder)
        self.id = run_index.ident(self.folder)

    def add(self, kind: str, **fields: Any) -> None:
        with self.events.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": kind, "time": time.time(), **fields}) + "\n")

    def begin(self, total: int, step: int = 0, number: int = 1) -> None:
        self.add("attempt", number=number, from_step=step, log=str(self.folder / f"attempt-{number}.log"))
        self.add("start", total_steps=total, epochs=1, initial_step=step)

    def steps(self, first: int, last: int, *, each: float = 0.5) -> None:
        """Append the events of the steps from `first` to `last`, in one write."""
        lines = [
            {
                "event": "step",
                "time": 1e9 + step,
                "step": step,
                "epoch": 1,
                "loss": round(0.1 + 0.4 / (1 + step / 40) + (step * 7919 % 100 - 50) / 900, 6),
                "avr_loss": round(0.12 + 0.4 / (1 + step / 40), 6),
                "lr": [1e-4 * min(1, step / 20)],
                "seconds": round(each * (1 + (step * 31 % 10) / 50), 6),
                "memory_mb": 9000.0 + step % 7,
            }
            for step in range(first, last + 1)
        ]
        with self.events.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))

    def sample(self, step: int, number: int, prompt: str, picture: bytes, seed: int | None = 1) -> Path:
        path = self.folder / "samples" / f"cats_{step:06}_{number:02}_20260101000000.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture)
        self.add("sample", path=str(path), step=step, prompt=prompt, number=number, seed=seed)
        return path


def png(red: int, green: int, blue: int, size: int = 64) -> bytes:
    """A picture of one colour, with a lighter square in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    plain, light = bytes((red, green, blue)), bytes(min(255, value * 2) for value in (red, green, blue))
    middle = range(size // 4, 3 * size // 4)
    rows = (b"\0" + b"".join(light if x in middle and y in middle else plain for x in range(size)) for y in range(size))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
