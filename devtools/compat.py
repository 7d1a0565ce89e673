"""`make compat`: train the smoke run with several trios of torch, torchvision and xformers, and write down what works.

Each trio gets an environment of its own below `.lora/compat`, which is removed again; a few GB come from the package
index the first time. The table in `docs/compat.md` is made here and never by hand.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tomli

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / ".lora" / "compat"
UV = ROOT / ".lora" / "uv" / "bin" / "uv"
_TRIO = ("torch", "torchvision", "xformers")
TRIOS = (
    ("2.6.0", "0.21.0", "0.0.29.post3"),
    ("2.8.0", "0.23.0", "0.0.32.post2"),
    ("2.10.0", "0.25.0", "0.0.35"),
    ("2.15.0", "0.29.2", "0.0.35"),
)
_LOOK = """
import json, torch, xformers._cpp_lib as lib
try:
    lib._register_extensions(); kernels = True
except Exception:
    kernels = False
print(json.dumps({"cuda": torch.version.cuda, "arches": torch._C._cuda_getArchFlags().split(), "kernels": kernels}))
"""


@dataclass(frozen=True)
class Tried:
    """The result for one trio. `seconds` is the smoke run's wall time, None when it failed."""

    trio: tuple[str, str, str]
    cuda: str
    arches: tuple[str, ...]
    kernels: bool
    seconds: float | None


def main() -> int:
    """Try every trio and write the table; 1 when the pinned one does not work."""
    tried = [_try(trio) for trio in TRIOS]
    (ROOT / "docs").mkdir(exist_ok=True)
    (ROOT / "docs" / "compat.md").write_text(_document(tried), encoding="utf-8")
    return 0 if all(item.seconds for item in tried if item.trio == _pinned()) else 1


def _try(trio: tuple[str, str, str]) -> Tried:
    sys.stderr.write(f"compat: {' '.join(trio)}\n")
    venv = SCRATCH / "venv"
    try:
        python = _environment(venv, trio)
        looked = json.loads(_run([python, "-c", _LOOK]).stdout.splitlines()[-1])
        return Tried(trio, looked["cuda"], tuple(looked["arches"]), looked["kernels"], _smoke(python))
    except subprocess.CalledProcessError as exc:
        sys.stderr.write((exc.stderr or "") + "\n")
        return Tried(trio, "?", (), kernels=False, seconds=None)
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)


def _environment(venv: Path, trio: tuple[str, str, str]) -> Path:
    python = venv / "bin" / "python"
    _run([UV, "venv", "-q", "--clear", "--no-python-downloads", "-p", sys.executable, venv])
    wanted = SCRATCH / "requirements.txt"
    # only declared dependencies: those of torch must match that torch
    others = [line for line in _declared() if _name(line) not in _TRIO]
    wanted.write_text("\n".join([*others, *(f"{n}=={v}" for n, v in zip(_TRIO, trio, strict=True))]), encoding="utf-8")
    _run([UV, "pip", "install", "-q", "-p", python, "-r", wanted])
    trees = ["-e", ROOT / "third_party" / "transformers", "-e", ROOT]
    _run([UV, "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--offline", "-p", python, *trees])
    return python


def _declared() -> list[str]:
    """Return the dependencies in `pyproject.toml`, with those for training."""
    project = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["train"]]


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9_-]", requirement, maxsplit=1)[0]


def _pinned() -> tuple[str, ...]:
    versions = {_name(line): line.split("==")[-1] for line in _declared()}
    return tuple(versions[name] for name in _TRIO)


def _smoke(python: Path) -> float | None:
    config, output = ROOT / "configs" / "smoke.toml", SCRATCH / "output"
    train = [python, "-m", "lora_training", "train", config, "--set", f"output_dir={output}"]
    try:
        # the first run compiles bytecode and is not measured
        _run(train)
        started = time.monotonic()
        _run([*train, "--resume", "never"])
    except subprocess.CalledProcessError as exc:
        sys.stderr.write(exc.stderr + "\n")
        return None
    return time.monotonic() - started


def _run(argv: list[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(arg) for arg in argv], cwd=ROOT, check=True, capture_output=True, text=True)


def _document(tried: list[Tried]) -> str:
    rows = "\n".join(_row(item) for item in tried)
    return f"""# Which trios work

Made by `make compat`; do not edit. Python {platform.python_version()}, {platform.system()} {platform.machine()}.

"Trains" is the smoke run on the real sd-scripts (`make train CONFIG=configs/smoke.toml`), with its wall time.
"xformers' kernels" says whether its compiled part loads with that torch: without it, `xformers = true` fails on a GPU
and `sdpa = true` is the choice. RTX 50 cards need sm_120 (CUDA 12.8 or newer), an H200 needs sm_90.

| torch | torchvision | xformers | CUDA | GPU code for | xformers' kernels | trains | |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}
"""


def _row(item: Tried) -> str:
    trains = f"yes, {item.seconds:.0f} s" if item.seconds else "NO"
    kernels = "load" if item.kernels else "do not load"
    ours = "**pinned**" if item.trio == _pinned() else ""
    cells = [*item.trio, item.cuda, " ".join(item.arches), kernels, trains, ours]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
