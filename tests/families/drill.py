"""The test of one family: training, stopping and resuming by the command line, and its LoRA in diffusers."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_training.config.loading import load
from tests.helpers import ROOT, Ran, lora

TIMEOUT = 300


@dataclass(frozen=True)
class Trained:
    """A run of a family's smoke configuration."""

    ran: Ran
    lora: Path

    @property
    def record(self) -> Path:
        return self.lora.with_suffix(".run")

    @property
    def events(self) -> list[dict[str, Any]]:
        file = self.record / "events.jsonl"
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]

    @property
    def modules(self) -> set[str]:
        return {key.partition(".")[0] for key in self.tensors()}

    def tensors(self, name: str = "") -> dict[str, bytes]:
        from safetensors.numpy import load_file

        file = self.lora.with_name(name) if name else self.lora
        return {key: value.tobytes() for key, value in load_file(file).items()}


def configuration(name: str) -> Path:
    return ROOT / "configs" / "smoke" / f"{name}.toml"


def script(name: str) -> str:
    return str(load(configuration(name)).script)


def train(file: Path, folder: Path, env: dict[str, str], *sets: str) -> Trained:
    """A run of the configuration to its end, its files in `folder`."""
    return Trained(lora(*_arguments(file, folder, *sets), cwd=ROOT, env=env), folder / f"smoke-{file.stem}.safetensors")


def stop(file: Path, folder: Path, env: dict[str, str], step: int) -> None:
    """Start or continue the run, and interrupt it after that step."""
    events = folder / f"smoke-{file.stem}.run" / "events.jsonl"
    argv = [sys.executable, "-m", "lora_training", *_arguments(file, folder)]
    log = folder.with_name(f"{folder.name}-{step}.log")
    with log.open("w") as output, subprocess.Popen(argv, cwd=ROOT, env=env, stdout=output, stderr=output) as started:
        while started.poll() is None and not _has_made(events, step):
            time.sleep(0.02)
        started.send_signal(signal.SIGINT)
        code = started.wait(TIMEOUT)
    assert code == 128 + signal.SIGINT, log.read_text(encoding="utf-8")


def _arguments(file: Path, folder: Path, *sets: str) -> list[str]:
    return ["train", str(file), *(word for each in (f"output_dir={folder}", *sets) for word in ("--set", each))]


def _has_made(events: Path, step: int) -> bool:
    return events.exists() and f'"step": {step},' in events.read_text(encoding="utf-8")


def own_images(name: str, cache: Path, folder: Path) -> Path:
    """A configuration of the family whose images, and so their caches, are its own."""
    text = configuration(name).read_text(encoding="utf-8")
    place = re.search(r'image_dir = "\$\{LORA_CACHE\}/(.*)"', text)
    assert place
    text = text.replace(place[0], f'image_dir = "{copied_images(cache / place[1], folder)}"')
    (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder / f"{name}.toml"


def copied_images(images: Path, folder: Path) -> Path:
    return Path(shutil.copytree(images, folder / "images"))


def caches(folder: Path) -> dict[Path, int]:
    """Every cache file beside the images, and when it was written."""
    import numpy as np

    found = {path: path.stat().st_mtime_ns for path in sorted(folder.glob("*.npz"))}
    for path in found:
        assert np.load(path).files
    return found


def damage(made: Iterable[Path]) -> set[Path]:
    """Cut a file of each kind short."""
    # circle_0128x0128_flux.npz and circle_flux_te.npz
    kinds = {path.name.split("_", 1)[1]: path for path in made}
    for path in kinds.values():
        path.write_bytes(path.read_bytes()[:-100])
    return set(kinds.values())


def overflow(made: Iterable[Path]) -> str:
    """Make one image's cached latents so large that its loss is not finite, which no check sees; the image's name."""
    import numpy as np

    for path in sorted(made):
        held = dict(np.load(path))
        if any(name.startswith("latents") for name in held):
            large = {name: held[name].astype("f4") * 1e30 for name in held if name.startswith("latents")}
            np.savez(path, **held | large)
            return path.name.split("_")[0]
    raise AssertionError(made)


def changes(file: Path) -> dict[str, Any]:
    """Return the matrix that a LoRA adds to each module."""
    from safetensors.numpy import load_file

    found = load_file(file)
    names = [key.removesuffix(".lora_down.weight") for key in found if key.endswith(".lora_down.weight")]
    down, up = ({name: found[f"{name}.lora_{which}.weight"] for name in names} for which in ("down", "up"))
    flat = {name: up[name].reshape(len(up[name]), -1) @ down[name].reshape(len(down[name]), -1) for name in names}
    return {name: flat[name] * float(found[f"{name}.alpha"]) / len(down[name]) for name in names}


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of two LoRAs in one module, as a part of what the first changes there."""
    import numpy as np

    assert one.keys() == other.keys()
    # a module that the first leaves as it is, such as the last layer of SDXL's first text encoder, has to stay so
    changed = [name for name in one if one[name].any()]
    assert [name for name in other if np.abs(other[name]).max() > 1e-6] == changed
    return max(float(np.linalg.norm(one[name] - other[name]) / np.linalg.norm(one[name])) for name in changed)
