"""The tables that this project defines: `[launch]`, `[run]`, `[runtime]`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from lora_training import families, nearest
from lora_training.config import paths

# takes a message, the path of a key and a hint
Report = Callable[..., None]

# upstream's flags for keys and tokens, and the environment variables that the same libraries read
SECRETS = {"huggingface_token": "HF_TOKEN", "wandb_api_key": "WANDB_API_KEY"}
_TYPES: dict[str, Any] = {"integer": int, "number": int | float, "string": str, "boolean": bool, "array": list}


def _key(default: Any, takes: str, text: str, **schema: Any) -> Any:
    """Declare a key: its default, the accepted values in words and as JSON Schema, and its help."""
    return field(default=default, metadata={"takes": takes, "help": text, "schema": schema})


def _integer(least: int, text: str, default: int | None = None) -> Any:
    return _key(default, f"a whole number of at least {least}", text, type="integer", minimum=least)


def _one_of(*words: str, text: str, default: str | None = None) -> Any:
    return _key(default, " or ".join(f'"{word}"' for word in words), text, enum=list(words))


@dataclass(frozen=True)
class LaunchTable:
    """The `[launch]` table: processes, precision, machines. None leaves a setting to the launcher."""

    num_processes: int | Literal["auto"] | None = _key(
        None,
        'a whole number of at least 1, or "auto"',
        'how many processes train, those of all machines together; "auto" is one for each GPU',
        anyOf=[{"type": "integer", "minimum": 1}, {"const": "auto"}],
    )
    gpu_ids: tuple[int | str, ...] | None = _key(
        None,
        'a list of different whole numbers or UUIDs, such as [0, 1] or ["GPU-1b2c"]',
        "which GPUs of this machine train, counted from 0 or by the UUIDs of `nvidia-smi -L` or their beginnings",
        type="array",
        items={
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^(GPU|MIG)-[0-9a-fA-F/-]+$"}]
        },
        uniqueItems=True,
        minItems=1,
    )
    mixed_precision: Literal["no", "fp16", "bf16"] | None = _one_of(
        "no", "fp16", "bf16", text="passed on as the flag, unless that is set too"
    )
    backend: Literal["accelerate", "filestore"] | None = _one_of(
        "accelerate", "filestore", text="what starts several processes and how they meet"
    )
    distributed_backend: Literal["nccl", "gloo"] | None = _one_of(
        "nccl", "gloo", text="what carries data between several processes; nccl on GPUs and gloo on CPUs, unless given"
    )
    num_machines: int | None = _integer(1, "how many machines train together")
    machine_rank: int | None = _integer(0, "this machine's number among them, from 0")
    main_process_ip: str | None = _key(
        None, "a string", "the address of the machine whose machine_rank is 0", type="string"
    )
    main_process_port: int | None = _key(
        None,
        "a port, 1 to 65535",
        "where the processes meet on that machine",
        type="integer",
        minimum=1,
        maximum=65535,
    )
    rdzv_backend: Literal["static", "c10d"] | None = _one_of(
        "static", "c10d", text="how several machines find each other, as torchrun has it"
    )
    num_cpu_threads_per_process: int | None = _integer(1, "threads of one process on the CPU; 1 unless given")


@dataclass(frozen=True)
class RunTable:
    """The `[run]` table: resuming, restarting, checks. `resume` is `auto`, `never` or an absolute path."""

    assets: str | None = _one_of(
        *families.ASSETS, text="what to make before the start: a smoke run's tiny model and images"
    )
    resume: str = _key(
        "auto",
        '"auto", "never" or the path of a saved state',
        'where to go on from: the newest good state ("auto", which is the default), nowhere, or that state',
        type="string",
    )
    retries: int = _integer(
        0, "how often a training that died is started again without progress; 3 unless given", default=3
    )
    stall_timeout: float | None = _key(
        None,
        "a number of seconds above 0",
        "after so long without a step or a checkpoint it counts as dead; never unless given",
        type="number",
        exclusiveMinimum=0,
    )
    checks: Literal["all", "quick", "none"] = _one_of(
        *("all", "quick", "none"),
        text="what to look at before the start; quick leaves the images and caches out",
        default="all",
    )
    allow_pickle: bool = _key(
        False,
        "true or false",
        "whether pickled weights (.ckpt, .pt, .bin) may run code when they are loaded; false unless given",
        type="boolean",
    )


# the metadata of each key, by table
TABLES: dict[str, dict[str, Mapping[str, Any]]] = {
    "launch": {key.name: key.metadata for key in fields(LaunchTable)},
    "run": {key.name: key.metadata for key in fields(RunTable)},
}


def table_of(key: str) -> str | None:
    """Return the table that has a key of this name."""
    return next((name for name, keys in TABLES.items() if key in keys), None)


def launch(raw: Any, report: Report) -> LaunchTable:
    """Parse `[launch]`: report each invalid setting, and return the others."""
    kept = _parsed("launch", raw, report)
    if "gpu_ids" in kept:
        kept["gpu_ids"] = tuple(kept["gpu_ids"])
    machines = kept.get("num_machines", 1)
    if kept.get("machine_rank", 0) >= machines:
        message = f"machine_rank = {kept.pop('machine_rank')} with num_machines = {machines}"
        report(message, ("launch", "machine_rank"), hint=f"give a rank from 0 to {machines - 1}")
    return LaunchTable(**kept)


def run(raw: Any, folder: Path, variables: Mapping[str, str], report: Report) -> RunTable:
    """Parse `[run]`, with `resume` made absolute: report each invalid setting, and return the others."""
    kept = _parsed("run", raw, report)
    if kept.get("resume", "auto") not in ("auto", "never"):
        try:
            kept["resume"] = paths.absolute(kept["resume"], folder, variables)
        except paths.UnknownVariable as exc:
            report(str(exc), ("run", "resume"), hint=exc.hint)
            del kept["resume"]
    return RunTable(**kept)


def runtime(raw: Any, report: Report) -> dict[str, Any]:
    """Parse `[runtime]`: a boolean or a table of settings for each runtime patch. `check` validates the names."""
    if not isinstance(raw, dict):
        report("[runtime] must be a table", ("runtime",))
        return {}
    kept = {name: value for name, value in raw.items() if isinstance(value, bool | dict)}
    for name in (name for name in raw if name not in kept):
        hint = "write true, false, or a table of its settings"
        report(f"runtime.{name} must be a switch or a table", ("runtime", name), hint=hint)
    return kept


def _parsed(name: str, raw: Any, report: Report) -> dict[str, Any]:
    if not isinstance(raw, dict):
        report(f"[{name}] must be a table", (name,))
        return {}
    known = TABLES[name]
    kept = {key: value for key, value in raw.items() if fits(name, key, value)}
    for key in (key for key in raw if key not in kept):
        if key in known:
            report(f"`{key}` must be {known[key]['takes']}", (name, key))
        else:
            hint = nearest.hint(key, known) or f"[{name}] has: {', '.join(known)}"
            report(f"[{name}] has no key `{key}`", (name, key), hint=hint)
    return kept


def fits(table: str, key: str, value: Any) -> bool:
    """Whether a table has a key of this name that takes this value."""
    return key in TABLES[table] and _fits(TABLES[table][key]["schema"], value)


def _fits(schema: Mapping[str, Any], value: Any) -> bool:
    """Whether a value fits a JSON Schema of the words used above; an empty string fits none."""
    if "anyOf" in schema:
        return any(_fits(each, value) for each in schema["anyOf"])
    if "type" not in schema:
        return isinstance(value, str) and value in schema.get("enum", [schema.get("const")])
    if not isinstance(value, _TYPES[schema["type"]]) or isinstance(value, bool) != (schema["type"] == "boolean"):
        return False
    if isinstance(value, list):
        return bool(value) and all(_fits(schema["items"], each) for each in value) and len(set(value)) == len(value)
    if isinstance(value, str | bool):
        return value != "" and re.search(schema.get("pattern", ""), str(value)) is not None
    least, most = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    return bool(least <= value <= most and schema.get("exclusiveMinimum", -math.inf) < value < math.inf)
