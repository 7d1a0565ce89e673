"""The description of a training for the checks before its start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A training to check: its script, the values of its flags, and the LoRA file that it will write.

    `dataset` is upstream's dataset configuration, if there is one besides the flags; `cwd` is the folder where upstream
    runs; `cache` is a folder for the list of files found good, None for no list. With `keeps`, existing files under the
    LoRA's name are backed up, not overwritten. With `only_looks`, no file is renamed.
    """

    script: str
    flags: Mapping[str, Any]
    dataset: Mapping[str, Any] | None
    output: Path
    cwd: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    cache: Path | None = None
    keeps: bool = False
    only_looks: bool = False

    def values(self, name: str) -> list[str]:
        """Return a flag's values as text; none if it is a switch or is not given."""
        found = self.flags.get(name)
        if found is None or isinstance(found, bool):
            return []
        if isinstance(found, dict):
            return [f"{key}={value}" for key, value in found.items()]
        return [str(value) for value in found] if isinstance(found, list) else [str(found)]

    def value(self, name: str) -> str | None:
        """Return a flag's single value; None if it is not given or takes no value."""
        return next(iter(self.values(name)), None)

    def number(self, name: str) -> float | None:
        """Return a flag's value as a number; None if it is not one."""
        try:
            return float(self.value(name) or "")
        except ValueError:
            return None

    def on(self, name: str) -> bool:
        """Whether a flag is given, or a switch is on."""
        return self.flags.get(name) not in (None, False)
