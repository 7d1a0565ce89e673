"""Training SDXL and FLUX.1-dev at full size on one GPU, beside upstream's documented example.

    python -m benchmarks.gpu [--families sdxl flux] [--steps N] [--folder DIR] [--rehearse] [--write FILE]

The checkpoints have their real sizes and random weights; upstream's own classes make them on the spot, so nothing is
downloaded (7 GB for SDXL, 34 GB for FLUX). In one run, in this order, each in a fresh process, this measures:

- upstream's example command, started by `accelerate launch` as upstream's documentation says;
- `lora train` with the same flags, and without exact-resume, which draws other random numbers: with the same losses;
- `lora train` with the preset from `configs/`, and the preset with one setting changed at a time.

Resolution, batch size, rank, precision of the weights and optimizer are those of the preset in all of them. A step is
what passes between two entries in upstream's own loss recorder; the figure is the median after the first steps.
Memory is the peak of the allocator. Model FLOPs are counted on the meta device: a forward pass, and a backward pass
that costs as much, since the base model's weights get no gradient; recomputing for gradient checkpointing is not
counted. The losses stand beside each other, because a faster run with other losses would be another training.

Also measured: the processor time of `lora`'s own process, the time spent in runtime patches, the synchronizing CUDA
calls with and without them, and whether a resumed run gives the same LoRA.

`--rehearse` runs all of it on the tiny models and a CPU; what needs a GPU is then named as not measured.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import toml

from benchmarks import inside

if TYPE_CHECKING:
    from collections.abc import Callable

Found = TypeVar("Found")
ROOT = Path(__file__).resolve().parent.parent
TREE = ROOT / "third_party" / "sd-scripts"
CARDS = (8, 12, 16, 24, 48, 80)
# dense bf16 TFLOPS from the makers' data sheets
PEAKS = {"H100 PCIe": 756, "H100": 989, "H200": 989, "A100": 312, "L40S": 362, "RTX 4090": 165, "RTX 3090": 71}
# the CUDA context and fragmentation, beside the allocator's peak
OVERHEAD_GB = 1.0

# the longest that one training may take
TIMEOUT_S = 3600


@dataclass(frozen=True)
class Family:
    """The measured variants of one family. `files`: its models by upstream's flags; `inputs`: one image's shapes."""

    files: dict[str, str]
    example: dict[str, Any]
    inputs: dict[str, tuple[int, ...]]
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)


FAMILIES = {
    "sdxl": Family(
        files={"pretrained_model_name_or_path": "sdxl.safetensors", "tokenizer_cache_dir": "tokenizer"},
        # docs/sdxl_train_network.md; its --text_encoder_lr1 and 2 exist no longer, and with cached outputs of the text
        # encoders upstream demands --network_train_unet_only, which the example lacks
        example={
            "network_module": "networks.lora",
            "learning_rate": 1e-4,
            "unet_lr": 1e-4,
            "lr_scheduler": "constant",
            "mixed_precision": "bf16",
            "gradient_checkpointing": True,
            "cache_text_encoder_outputs": True,
            "cache_latents": True,
            "network_train_unet_only": True,
        },
        inputs={"x": (1, 4, 128, 128), "timesteps": (1,), "context": (1, 77, 2048), "y": (1, 2816)},
        variants={
            "with gradient checkpointing": {"gradient_checkpointing": True},
            "without gradient checkpointing": {"gradient_checkpointing": False},
            "xformers for sdpa": {"sdpa": False, "xformers": True},
            "torch.compile": {"torch_compile": True, "dynamo_backend": "inductor"},
            "8-bit optimizer": {"optimizer_type": "AdamW8bit"},
            "fp8 base model": {"fp8_base": True},
            "four data workers": {"max_data_loader_n_workers": 4, "persistent_data_loader_workers": True},
        },
    ),
    "flux": Family(
        files={
            "pretrained_model_name_or_path": "flux.safetensors",
            "clip_l": "clip_l.safetensors",
            "t5xxl": "t5xxl.safetensors",
            "ae": "ae.safetensors",
            "tokenizer_cache_dir": "tokenizer",
        },
        # docs/flux_train_network.md, in bf16 as the preset has it
        example={
            "network_module": "networks.lora_flux",
            "learning_rate": 1e-4,
            "lr_scheduler": "constant",
            "sdpa": True,
            "mixed_precision": "bf16",
            "gradient_checkpointing": True,
            "guidance_scale": 1.0,
            "timestep_sampling": "flux_shift",
            "model_prediction_type": "raw",
            "blocks_to_swap": 18,
            "cache_text_encoder_outputs": True,
            "cache_latents": True,
            "network_train_unet_only": True,
        },
        inputs={
            "img": (1, 4096, 64),
            "img_ids": (1, 4096, 3),
            "txt": (1, 512, 4096),
            "txt_ids": (1, 512, 3),
            "timesteps": (1,),
            "y": (1, 768),
            "guidance": (1,),
        },
        variants={
            "without swapped blocks": {"blocks_to_swap": 0},
            "base model in bf16": {"fp8_base": False},
            "base model in bf16, without swapped blocks": {"fp8_base": False, "blocks_to_swap": 0},
            "without gradient checkpointing": {"gradient_checkpointing": False, "blocks_to_swap": 0},
            "torch.compile": {"torch_compile": True, "dynamo_backend": "inductor", "blocks_to_swap": 0},
            "8-bit optimizer": {"optimizer_type": "AdamW8bit"},
        },
    ),
}


def model(name: str) -> Any:
    """Return upstream's model of a family, with its real size unless `tiny-models` is installed."""
    if name == "sdxl":
        from library import sdxl_original_unet

        return sdxl_original_unet.SdxlUNet2DConditionModel()
    from library import flux_models

    return flux_models.Flux(flux_models.configs["dev"].params)


@dataclass(frozen=True)
class Measured:
    """One training. Memory is the peak in MB, None on a CPU; `supervisor` is the CPU time a step of `lora` itself."""

    seconds: list[float]
    losses: list[float]
    memory_mb: float | None
    supervisor: float | None = None

    @property
    def step(self) -> float:
        """The median of the steps after the first third, in which CUDA allocates and compiles."""
        return statistics.median(self.seconds[len(self.seconds) // 3 :])


@dataclass
class Bench:
    """One family in one folder: its checkpoint and images, and where runs write."""

    name: str
    folder: Path
    steps: int
    rehearse: bool

    @property
    def family(self) -> Family:
        """The family's variants."""
        return FAMILIES[self.name]

    @property
    def model(self) -> Path:
        """The folder of the checkpoint, the tokenizers and the images."""
        return self.folder / f"model-{self.name}"

    def make(self) -> None:
        """Write the checkpoint with random weights, and images of the size that is trained."""
        if self.model.exists():
            return
        size = "" if self.rehearse else ", tiny=False, pixels=1024"
        device = "cpu" if self.rehearse else "cuda"
        dtype = "float32" if self.rehearse else "bfloat16"
        code = (
            "import sys, torch; from pathlib import Path; from lora_training.smoke import families\n"
            f"torch.set_default_device('{device}'); torch.set_default_dtype(torch.{dtype})\n"
            f"families.write(Path(sys.argv[1]), '{self.name}'{size})\n"
        )
        self.model.mkdir(parents=True)
        subprocess.run([sys.executable, "-c", code, str(self.model)], cwd=ROOT, check=True)

    def preset(self) -> dict[str, Any]:
        """The preset as a dict, on this model and these images. A rehearsal takes only the sizes of the smoke run."""
        data = toml.load(ROOT / "configs" / f"{self.name}.toml")
        data["model"] |= {flag: str(self.model / file) for flag, file in self.family.files.items()}
        dataset = data["datasets"][0]
        dataset["subsets"][0]["image_dir"] = str(self.model / "images")
        data["training"].pop("max_train_epochs", None)
        data["training"]["max_train_steps"] = self.steps
        data["saving"] = {"output_name": "bench", "save_model_as": "safetensors", "save_precision": "bf16"}
        if self.rehearse:
            dataset |= {"resolution": [128, 128], "enable_bucket": False}
            del dataset["bucket_no_upscale"]
            data["runtime"] = {"tiny-models": True}
            data["training"]["mixed_precision"] = "no"
            data["saving"]["save_precision"] = "float"
            data["training"].pop("fp8_base", None)
            data["training"].pop("blocks_to_swap", None)
        return data

    def changed(self, changes: dict[str, Any]) -> dict[str, Any]:
        """The preset with some settings changed, wherever in it they stand."""
        data = self.preset()
        tables = [table for name, table in data.items() if isinstance(table, dict) and name != "runtime"]
        if self.rehearse and "dynamo_backend" in changes:
            changes = changes | {"dynamo_backend": "eager"}  # inductor compiles for minutes on a CPU
        for key, value in changes.items():
            table = next((table for table in tables if key in table), data["training"])
            table[key] = value
            if value is False:
                del table[key]
        return data

    def example(self, **runtime: bool) -> dict[str, Any]:
        """Upstream's example with the preset's model, data, rank, optimizer and precision, and these patches."""
        data = self.preset()
        flat = {**data["network"], **data["optimizer"], **data["training"]}
        kept = {key: flat[key] for key in ("network_dim", "network_alpha", "optimizer_type", "max_train_steps", "seed")}
        training = {**self.family.example, **kept}
        if self.rehearse:
            training["mixed_precision"] = "no"
            training.pop("blocks_to_swap", None)
        rest = {key: data[key] for key in ("script", "model", "saving", "datasets")}
        return {**rest, "training": training, "runtime": {**data.get("runtime", {}), **runtime}}


def main() -> None:
    """Measure, and print the results."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    options.add_argument("--steps", type=int, default=30)
    options.add_argument("--folder", type=Path, help="keeps the checkpoints for another run")
    options.add_argument("--rehearse", action="store_true", help="the tiny models, on a CPU")
    options.add_argument("--write", type=Path)
    given = options.parse_args()
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        text = _head(rehearse=given.rehearse)
        for name in given.families:
            text += "\n" + _report(Bench(name, folder.resolve(), given.steps, given.rehearse))
            if given.write:
                given.write.write_text(text + "\n", encoding="utf-8")
    print(text)


def _head(*, rehearse: bool) -> str:
    import torch

    lines = ["# Benchmarks: one GPU", "", "Written by `python -m benchmarks.gpu`. How it is measured stands there."]
    if rehearse or not torch.cuda.is_available():
        lines += ["", "**A rehearsal with tiny models on a CPU: no figure below says anything of a GPU.**"]
        lines += ["Not measured: memory of the GPU, model FLOPs utilisation, synchronizing calls, what fits on a card."]
        lines += [f"It ran on {os.cpu_count()} processors with a load of {os.getloadavg()[0]:.0f} at the start."]
    else:
        card = torch.cuda.get_device_properties(0)
        lines += ["", f"{card.name}, {card.total_memory / 2**30:.0f} GiB, torch {torch.__version__}."]
    lines += ["", "exact-resume draws other random numbers; without it, the losses are those of `accelerate launch`."]
    return "\n".join(lines)


def _report(bench: Bench) -> str:
    bench.make()
    runs = {
        "upstream's example, `accelerate launch`": lambda: _accelerate(bench),
        "`lora train`, upstream's example": lambda: _lora(bench, "example", bench.example()),
        "the same without `exact-resume`": lambda: _lora(bench, "inexact", bench.example(**{"exact-resume": False})),
        f"`lora train`, our preset `{bench.name}`": lambda: _lora(bench, "preset", bench.preset()),
    }
    for number, (title, changes) in enumerate(bench.family.variants.items()):
        name, data = f"variant-{number}", bench.changed(changes)
        runs[f"preset, {title}"] = functools.partial(_lora, bench, name, data)
    rows = {title: _tried(title, measure) for title, measure in runs.items()}
    table = _table(rows, _model_flops(bench), _batch(bench))
    more = (_tried(each.__name__, functools.partial(each, bench)) for each in (_hooks, _resumed))
    return "\n\n".join(["", f"## {bench.name}", table, _supervision(rows), *more])


def _batch(bench: Bench) -> int:
    return int(bench.preset()["datasets"][0]["batch_size"])


def _tried(title: str, measure: Callable[[], Found]) -> Found | str:
    """Return the measurement, or the log's last line: that a variant does not run on this card is a result."""
    sys.stderr.write(f"{title}\n")
    try:
        return measure()
    except subprocess.TimeoutExpired:
        return f"not over after {TIMEOUT_S} s"
    except subprocess.CalledProcessError as exc:
        lines = (exc.stdout or "").strip().splitlines()
        return next((line for line in reversed(lines) if "Error" in line or line.startswith("error:")), lines[-1])


def _run(argv: list[str], cwd: Path = ROOT, **env: str) -> str:
    return subprocess.run(
        argv,
        cwd=cwd,
        env=os.environ | env,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT_S,
    ).stdout


def _written(bench: Bench, name: str, data: dict[str, Any]) -> tuple[Path, Path]:
    """Write a configuration whose output goes to a new folder; return both."""
    output = bench.folder / f"run-{bench.name}-{name}"
    shutil.rmtree(output, ignore_errors=True)
    data["saving"]["output_dir"] = str(output)
    file = bench.folder / f"{bench.name}-{name}.toml"
    file.write_text(toml.dumps(data), encoding="utf-8")
    return file, output


def _lora(bench: Bench, name: str, data: dict[str, Any], *options: str) -> Measured:
    file, output = _written(bench, name, data)
    spent = _supervised([sys.executable, "-m", "lora_training", "train", str(file), *options], bench)
    lines = (output / "bench.run" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [event for event in map(json.loads, lines) if event.get("event") == "step"]
    memory = None if bench.rehearse else max(step["memory_mb"] for step in steps)
    during = [processor for when, processor in spent if steps[0]["time"] <= when <= steps[-1]["time"]]
    each = (during[-1] - during[0]) / len(steps) if during else None
    return Measured([step["seconds"] for step in steps[1:]], [step["loss"] for step in steps], memory, each)


def _supervised(argv: list[str], bench: Bench) -> list[tuple[float, float]]:
    """Run `lora`; return its own processor time in seconds, without its children's, at several Unix times."""
    spent: list[tuple[float, float]] = []
    log = bench.folder / "lora.log"
    environment = os.environ | {"LORA_RUNS": str(bench.folder / "runs")}
    with (
        log.open("w", encoding="utf-8") as output,
        subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=output, stderr=output) as lora,
    ):
        begun = time.time()
        while lora.poll() is None:
            spent.append((time.time(), inside.processor_time(lora.pid)))
            if spent[-1][0] > begun + TIMEOUT_S:
                lora.terminate()
                raise subprocess.TimeoutExpired(argv, TIMEOUT_S)
            time.sleep(0.1)
    if lora.returncode:
        raise subprocess.CalledProcessError(lora.returncode, argv, log.read_text(encoding="utf-8"))
    return spent


def _command(bench: Bench, name: str, data: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    """Return upstream's script with its flags, and the environment that `lora train` gives it."""
    file, _ = _written(bench, name, data)
    line = _run([sys.executable, "-m", "lora_training", "train", str(file), "--dry-run"]).splitlines()
    words = shlex.split(next(each for each in line if "lora_training.runtime" in each))
    start = words.index(sys.executable)
    script = next(at for at, word in enumerate(words) if word.endswith("_train_network.py"))
    env = dict(word.split("=", 1) for word in words[3:start] if "=" in word)
    # a dry run writes no dataset file
    dataset = file.with_suffix(".json")
    dataset.write_text(json.dumps({"datasets": data["datasets"]}), encoding="utf-8")
    words[words.index("--dataset_config") + 1] = str(dataset)
    return words[script:], env


def _accelerate(bench: Bench) -> Measured:
    words, _ = _command(bench, "bare", bench.example())
    env = {"LORA_RUNTIME": json.dumps({"tiny-models": {}})} if bench.rehearse else {}
    found = _inside(bench, [*inside.ACCELERATE, *words], env)
    seconds = [after - before for before, after in pairwise(found["clock"])]
    return Measured(seconds, found["losses"], found["memory_mb"])


def _inside(bench: Bench, argv: list[str], env: dict[str, str]) -> Any:
    """Return what `benchmarks.inside` noted of a training that it ran."""
    seen = bench.folder / "seen.json"
    _run(argv, TREE, **env, SEEN=str(seen), PYTHONPATH=str(ROOT))
    return json.loads(seen.read_text(encoding="utf-8"))


def _model_flops(bench: Bench) -> float | None:
    """FLOPs of a forward and a backward pass for one image of 1024 pixels."""
    if bench.rehearse:
        return None
    code = (
        "import sys, torch; from benchmarks import gpu; from torch.utils.flop_counter import FlopCounterMode\n"
        "with torch.device('meta'), FlopCounterMode(display=False) as counted:\n"
        "    inputs = gpu.FAMILIES[sys.argv[1]].inputs\n"
        "    gpu.model(sys.argv[1])(**{name: torch.zeros(shape) for name, shape in inputs.items()})\n"
        "print(counted.get_total_flops())\n"
    )
    return 2.0 * float(_run([sys.executable, "-c", code, bench.name], TREE, PYTHONPATH=str(ROOT)).split()[-1])


def _peak() -> float | None:
    """The card's dense bf16 FLOPs a second, from its data sheet."""
    import torch

    name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    return next((value * 1e12 for part, value in PEAKS.items() if part in name), None)


def _table(rows: dict[str, Measured | str], flops: float | None, batch: int) -> str:
    first = next(iter(rows.values()))
    lines = [
        "| run | s a step | upstream's example = 1 | peak memory, GB | fits in, GB | MFU | loss, last steps |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for title, found in rows.items():
        if isinstance(found, str):
            lines.append(f"| {title} | did not run: {found} | - | - | - | - | - |")
            continue
        ratio = f"{first.step / found.step:.2f} x" if isinstance(first, Measured) else "-"
        gigabytes = None if found.memory_mb is None else found.memory_mb / 1024
        peak = _peak()
        used = f"{flops * batch / found.step / peak:.1%}" if flops and peak else "-"
        cells = [title, f"{found.step:.3f}", ratio, "-" if gigabytes is None else f"{gigabytes:.1f}", _card(gigabytes)]
        lines.append(f"| {' | '.join([*cells, used, f'{statistics.mean(found.losses[-5:]):.5f}'])} |")
    return "\n".join(lines)


def _card(gigabytes: float | None) -> str:
    if gigabytes is None:
        return "-"
    return str(next((card for card in CARDS if gigabytes + OVERHEAD_GB <= card), "more than 80"))


def _supervision(rows: dict[str, Measured | str]) -> str:
    shares = [
        found.supervisor / found.step
        for found in rows.values()
        if isinstance(found, Measured) and found.supervisor is not None
    ]
    return f"Processor time of `lora`'s own process: {statistics.median(shares):.2%} of a step." if shares else ""


def _hooks(bench: Bench) -> str:
    """Measure the patches inside the training process: time in watchers, and synchronizing calls, with and without."""
    words, env = _command(bench, "hooks", bench.preset())
    chosen = json.loads(env["LORA_RUNTIME"])
    needed = {name: value for name, value in chosen.items() if name == "tiny-models"}
    found = {}
    for title, patches in (("all", chosen), ("none", needed)):
        folder = bench.folder / f"hooks-{bench.name}-{title}"
        folder.mkdir(exist_ok=True)
        own = {"LORA_RUN_FOLDER": str(folder), "LORA_EVENTS": str(folder / "events"), "COUNT_SYNCHRONIZING": "1"}
        own["LORA_RUNTIME"] = json.dumps(patches)
        found[title] = _inside(bench, [sys.executable, inside.__file__, *words], env | own)
    a_step = found["all"]["watchers"][-1] / bench.steps
    none, every = found["none"]["synchronizing"], found["all"]["synchronizing"]
    calls = "not measured" if bench.rehearse else f"{every} with the patches, {none} without"
    return (
        f"Runtime patches: {a_step * 1000:.2f} ms a step in watchers, saving included. Synchronizing CUDA calls in "
        f"{bench.steps} steps: {calls}."
    )


def _resumed(bench: Bench) -> str:
    """Train the preset whole, and again with a resume in the middle; compare the LoRAs."""
    import torch
    from safetensors.torch import load_file

    half = bench.steps // 2
    whole = bench.preset()
    whole["saving"] |= {"save_state": True, "save_every_n_steps": half}
    _lora(bench, "whole", whole)
    state = bench.folder / f"run-{bench.name}-whole" / f"bench-step{half:08d}-state"
    _lora(bench, "resumed", whole, "--resume", str(state))
    one, other = (
        load_file(bench.folder / f"run-{bench.name}-{name}" / "bench.safetensors") for name in ("whole", "resumed")
    )
    apart = max(float((one[key].float() - other[key].float()).abs().max()) for key in one)
    same = sum(torch.equal(one[key], other[key]) for key in one)
    return (
        f"Resumed at step {half} of {bench.steps}: {same} of {len(one)} tensors equal, largest difference {apart:.3g}."
    )


if __name__ == "__main__":
    main()
