"""A configuration as data: what the file, the environment and `--set` say, and where each value came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lora_training.config.positions import Path as KeyPath
    from lora_training.config.positions import Position

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """Something wrong with a configuration, or likely to be. `where` is the file, or what overrode it."""

    message: str
    hint: str | None = None
    severity: Severity = "error"
    key: str | None = None
    where: str = ""
    position: Position | None = None

    @property
    def place(self) -> str:
        """`file:line:column`, as far as it is known."""
        return f"{self.where}:{self.position.line}:{self.position.column}" if self.position else self.where


@dataclass(frozen=True)
class Entry:
    """A value for one of upstream's flags.

    `where` names its origin: the file, `LORA_NAME` or `--set`; `path` is its place in the file's document; `text` is
    what was written when it came from outside the file, before it was read as TOML.
    """

    key: str
    value: Any
    where: str
    path: KeyPath = ()
    position: Position | None = None
    text: str | None = None


@dataclass(frozen=True)
class Launch:
    """`[launch]`: processes, precision, machines. None is left to the launcher.

    `num_processes` counts those of all machines; `auto` is one for each GPU.
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
    """`[run]`: how a run is kept going. `resume` is `auto`, `never` or an absolute path; `stall_timeout` in seconds.

    `assets = "smoke"` has a tiny model and images made under `${LORA_CACHE}/smoke` before the start. `checks` are those
    before the start: all, those that do not open every image and cache file, or none. `allow_pickle` has pickled
    weights loaded whole, with the code that may be in them.
    """

    assets: Literal["smoke"] | None = None
    resume: str = "auto"
    retries: int = 3
    stall_timeout: float | None = None
    checks: Literal["all", "quick", "none"] = "all"
    allow_pickle: bool = False


@dataclass(frozen=True)
class Config:
    """One configuration file with everything that overrides it. Nothing here has been held against upstream yet.

    `entries` has upstream's flags by key, in the file's order; `datasets` and `general` are as written in the file,
    and go to upstream's dataset configuration; `variables` is what `${NAME}` stands for in a path; `secrets` are
    keys and tokens by the environment variable that takes them, and are no entries, so that nothing shows or records
    them; `problems` are those that can be seen without upstream.
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
        """The value of each flag as it was written, by key, in order."""
        return MappingProxyType({key: entry.value for key, entry in self.entries.items()})

    @property
    def folder(self) -> Path:
        """What relative paths are relative to."""
        return self.path.parent

    def problem(self, message: str, path: KeyPath, *, hint: str | None = None, severity: Severity = "error") -> Problem:
        """A problem at a place of the document: the nearest enclosing one that the file has, or its override."""
        key = ".".join(map(str, path)) or None
        for length in range(len(path), -1, -1):
            if path[:length] in self.origins:
                return Problem(message, hint, severity, key, self.origins[path[:length]])
            if path[:length] in self.positions:
                return Problem(message, hint, severity, key, str(self.path), self.positions[path[:length]])
        return Problem(message, hint, severity, key, str(self.path))
