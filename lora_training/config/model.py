"""A configuration as data: the values from the file, the environment and `--set`, and the origin of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from lora_training.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lora_training.config.positions import Path as KeyPath
    from lora_training.problems import Position, Severity


@dataclass(frozen=True)
class Entry:
    """A value for one of upstream's flags.

    `where` names its origin (the file, `LORA_NAME` or `--set`); `path` is its position in the document; `text` is the
    original text of an override, before it was parsed as TOML.
    """

    key: str
    value: Any
    where: str
    path: KeyPath = ()
    position: Position | None = None
    text: str | None = None


@dataclass(frozen=True)
class Launch:
    """The `[launch]` table: processes, precision, machines. None leaves a setting to the launcher.

    `num_processes` is the total over all machines; `auto` means one for each GPU.
    """

    num_processes: int | Literal["auto"] | None = None
    gpu_ids: tuple[int, ...] | None = None
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    backend: Literal["accelerate", "filestore"] | None = None
    num_machines: int | None = None
    machine_rank: int | None = None
    main_process_ip: str | None = None
    main_process_port: int | None = None
    rdzv_backend: Literal["static", "c10d"] | None = None
    num_cpu_threads_per_process: int | None = None


@dataclass(frozen=True)
class Run:
    """The `[run]` table: resuming, restarting, checks. `resume` is `auto`, `never` or an absolute path.

    `stall_timeout` is in seconds. `assets` has a tiny model and images made before the start, in the folder of that
    name in `${LORA_CACHE}`. `checks` selects the checks before the start: all, those that do not open every image and
    cache file, or none. `allow_pickle` lets pickled weights be loaded in full, which may run code that they contain.
    """

    assets: str | None = None
    resume: str = "auto"
    retries: int = 3
    stall_timeout: float | None = None
    checks: Literal["all", "quick", "none"] = "all"
    allow_pickle: bool = False


@dataclass(frozen=True)
class Config:
    """One configuration file with all overrides applied, not yet checked against upstream.

    `entries` has upstream's flags by key, in the file's order. `datasets` and `general` are as written in the file and
    go to upstream's dataset configuration. `variables` supplies `${NAME}` in paths. `secrets` maps environment
    variables to keys and tokens; they are not in `entries`, so that they are neither printed nor recorded. `problems`
    has the problems that can be found without upstream.
    """

    path: Path
    script: str
    entries: Mapping[str, Entry]
    datasets: tuple[dict[str, Any], ...] = ()
    general: Mapping[str, Any] = field(default_factory=dict)
    launch: Launch = field(default_factory=Launch)
    run: Run = field(default_factory=Run)
    runtime: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    positions: Mapping[KeyPath, Position] = field(default_factory=dict)
    origins: Mapping[KeyPath, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    @property
    def values(self) -> Mapping[str, Any]:
        """The value of each flag as written, by key, in order."""
        return MappingProxyType({key: entry.value for key, entry in self.entries.items()})

    @property
    def folder(self) -> Path:
        """The folder that relative paths are relative to."""
        return self.path.parent

    def problem(self, message: str, path: KeyPath, *, hint: str | None = None, severity: Severity = "error") -> Problem:
        """Return a problem located at a path of the document, its nearest enclosing position, or its override."""
        key = ".".join(map(str, path)) or None
        for length in range(len(path), -1, -1):
            if path[:length] in self.origins:
                return Problem(message, hint, severity, key, self.origins[path[:length]])
            if path[:length] in self.positions:
                return Problem(message, hint, severity, key, str(self.path), self.positions[path[:length]])
        return Problem(message, hint, severity, key, str(self.path))
