"""The tables that this project defines: `[launch]`, `[run]`, `[runtime]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_training import families, nearest
from lora_training.config import paths
from lora_training.config.model import Launch, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lora_training.config.positions import Path as KeyPath
    from lora_training.problems import Problem

    Report = Callable[..., Problem]


@dataclass(frozen=True)
class _Key:
    """A key of these tables: the accepted values in words, a test for them, and the key's help."""

    legal: str
    accepts: Callable[[Any], bool]
    help: str


def _integer(least: int, text: str) -> _Key:
    return _Key(f"a whole number of at least {least}", lambda v: _is_int(v) and v >= least, text)


def _one_of(*words: str, text: str) -> _Key:
    return _Key(" or ".join(f'"{word}"' for word in words), lambda v: isinstance(v, str) and v in words, text)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_LAUNCH = {
    "num_processes": _Key(
        'a whole number of at least 1, or "auto"',
        lambda v: v == "auto" or (_is_int(v) and v >= 1),
        'how many processes train, those of all machines together; "auto" is one for each GPU',
    ),
    "gpu_ids": _Key(
        "a list of different whole numbers, such as [0, 1]",
        lambda v: isinstance(v, list) and bool(v) and all(_is_int(i) and i >= 0 for i in v) and len(set(v)) == len(v),
        "which GPUs of this machine train, counted from 0",
    ),
    "mixed_precision": _one_of("no", "fp16", "bf16", text="passed on as the flag, unless that is set too"),
    "backend": _one_of("accelerate", "filestore", text="what starts several processes and how they meet"),
    "num_machines": _integer(1, "how many machines train together"),
    "machine_rank": _integer(0, "this machine's number among them, from 0"),
    "main_process_ip": _Key(
        "a string", lambda v: isinstance(v, str) and bool(v), "the address of the machine whose machine_rank is 0"
    ),
    "main_process_port": _Key(
        "a port, 1 to 65535", lambda v: _is_int(v) and 0 < v < 2**16, "where the processes meet on that machine"
    ),
    "rdzv_backend": _one_of("static", "c10d", text="how several machines find each other, as torchrun has it"),
    "num_cpu_threads_per_process": _integer(1, "threads of one process on the CPU; 1 unless given"),
}
_RUN = {
    "assets": _one_of(*families.ASSETS, text="what to make before the start: a smoke run's tiny model and images"),
    "resume": _Key(
        '"auto", "never" or the path of a saved state',
        lambda v: isinstance(v, str) and bool(v),
        'where to go on from: the newest good state ("auto", which is the default), nowhere, or that state',
    ),
    "retries": _integer(0, "how often a training that died is started again without progress; 3 unless given"),
    "checks": _one_of(
        "all", "quick", "none", text="what to look at before the start; quick leaves the images and caches out"
    ),
    "allow_pickle": _Key(
        "true or false",
        lambda v: isinstance(v, bool),
        "whether pickled weights (.ckpt, .pt, .bin) may run code when they are loaded; false unless given",
    ),
    "stall_timeout": _Key(
        "a number of seconds above 0",
        lambda v: (_is_int(v) or isinstance(v, float)) and 0 < v < float("inf"),
        "after so long without a step or a checkpoint it counts as dead; never unless given",
    ),
}

# upstream's flags for keys and tokens, and the environment variables that the same libraries read
SECRETS = {"huggingface_token": "HF_TOKEN", "wandb_api_key": "WANDB_API_KEY"}

LAUNCH_KEYS = tuple(_LAUNCH)
RUN_KEYS = tuple(_RUN)


def table_of(key: str) -> str | None:
    """Return the table that has a key of this name."""
    return next((name for name, keys in (("launch", LAUNCH_KEYS), ("run", RUN_KEYS)) if key in keys), None)


def described(key: str) -> tuple[str, str, str] | None:
    """Return a key's table, accepted values and help; None if no table has it."""
    tables = {"launch": _LAUNCH, "run": _RUN}
    return next(((name, keys[key].legal, keys[key].help) for name, keys in tables.items() if key in keys), None)


def launch(raw: Any, report: Report) -> tuple[Launch, list[Problem]]:
    """Parse `[launch]`: return its valid settings, and a problem for each invalid one."""
    kept, problems = _table("launch", raw, _LAUNCH, report)
    if "gpu_ids" in kept:
        kept["gpu_ids"] = tuple(kept["gpu_ids"])
    if kept.get("machine_rank", 0) >= kept.get("num_machines", 1):
        message = f"machine_rank = {kept['machine_rank']} with num_machines = {kept.get('num_machines', 1)}"
        hint = "ranks are counted from 0"
        if kept.pop("machine_rank"):
            problems.append(report(message, ("launch", "machine_rank"), hint=hint))
    return Launch(**kept), problems


def run(raw: Any, folder: Path, variables: Mapping[str, str], report: Report) -> tuple[Run, list[Problem]]:
    """Parse `[run]`, with `resume` made absolute: return its valid settings, and a problem for each invalid one."""
    kept, problems = _table("run", raw, _RUN, report)
    if kept.get("resume", "auto") not in ("auto", "never"):
        try:
            kept["resume"] = paths.absolute(kept["resume"], folder, variables)
        except paths.UnknownVariable as exc:
            problems.append(report(str(exc), ("run", "resume"), hint=exc.hint))
            del kept["resume"]
    return Run(**kept), problems


def runtime(raw: Any, report: Report) -> tuple[dict[str, Any], list[Problem]]:
    """Parse `[runtime]`: a boolean or a table of settings for each runtime patch. `check` validates the names."""
    if not isinstance(raw, dict):
        return {}, [report("[runtime] must be a table", ("runtime",))]
    kept = {name: value for name, value in raw.items() if isinstance(value, bool | dict)}
    wrong = [name for name in raw if name not in kept]
    hint = "write true, false, or a table of its settings"
    return kept, [report(f"runtime.{name} must be a switch or a table", ("runtime", name), hint=hint) for name in wrong]


def _table(name: str, raw: Any, known: Mapping[str, _Key], report: Report) -> tuple[dict[str, Any], list[Problem]]:
    if not isinstance(raw, dict):
        return {}, [report(f"[{name}] must be a table", (name,))]
    kept: dict[str, Any] = {}
    problems = []
    for key, value in raw.items():
        path: KeyPath = (name, key)
        if key not in known:
            hint = nearest.hint(key, known) or f"[{name}] has: {', '.join(known)}"
            problems.append(report(f"[{name}] has no key `{key}`", path, hint=hint))
        elif not known[key].accepts(value):
            problems.append(report(f"`{key}` must be {known[key].legal}", path))
        else:
            kept[key] = value
    return kept, problems
