"""The results of the checks before a start, and the description of a run that they need."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Progress = Callable[[str], None]


@dataclass(frozen=True)
class Finding:
    """An error, which will end the training, or a warning, which may. `key` is the flag that it is about."""

    message: str
    hint: str | None = None
    severity: Literal["error", "warning"] = "error"
    key: str | None = None


@dataclass(frozen=True)
class Job:
    """A training to check: its script, its flags as passed to upstream, and the LoRA file that it will write.

    `dataset` is upstream's dataset configuration, if there is one besides the flags; `cwd` is the folder where upstream
    runs; `cache` is a folder for the list of files found good, None for no list. With `keeps`, existing files under the
    LoRA's name are backed up, not overwritten. With `only_looks`, no file is renamed.
    """

    script: str
    flags: Mapping[str, tuple[str, ...]]
    dataset: Mapping[str, Any] | None
    output: Path
    cwd: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    cache: Path | None = None
    keeps: bool = False
    only_looks: bool = False

    def value(self, name: str) -> str | None:
        """Return a flag's single value; None if it is not given or takes no value."""
        return next(iter(self.flags.get(name, ())), None)

    def number(self, name: str) -> float | None:
        """Return a flag's value as a number; None if it is not one."""
        try:
            return float(self.value(name) or "")
        except ValueError:
            return None

    def on(self, name: str) -> bool:
        """Whether a flag is given."""
        return name in self.flags


def flags(words: list[str]) -> dict[str, tuple[str, ...]]:
    """Parse a command line such as `--a 1 2 --b=-x --c` into flags and values; the last flag of each name counts."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, joined, value = word[2:].partition("=")
            found[name] = [value] if joined else []
        elif name:
            found[name].append(word)
    return {name: tuple(values) for name, values in found.items()}
