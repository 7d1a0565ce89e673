"""What a check before the start has found, and what a run is, as far as the checks need to know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Progress = Callable[[str], None]


@dataclass(frozen=True)
class Finding:
    """Something that will end the training, an error, or may well do so, a warning. `key` is the flag it is about."""

    message: str
    hint: str | None = None
    severity: Literal["error", "warning"] = "error"
    key: str | None = None


@dataclass(frozen=True)
class Job:
    """A training to come: its script, its flags as upstream is given them, and the LoRA that it will write.

    `dataset` is upstream's dataset configuration, if there is one beside the flags; `cwd` is where upstream runs;
    `cache` is a folder to remember in what was found good, None to remember nothing. With `keeps`, what is there under
    the LoRA's name is put aside and not written over. With `only_looks`, no file is renamed.
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
        """A flag's one value; None when it is not given, or is a switch."""
        return next(iter(self.flags.get(name, ())), None)

    def number(self, name: str) -> float | None:
        """The same as a number, when it is one."""
        try:
            return float(self.value(name) or "")
        except ValueError:
            return None

    def on(self, name: str) -> bool:
        """Whether a flag is given."""
        return name in self.flags


def flags(words: list[str]) -> dict[str, tuple[str, ...]]:
    """A command line's flags with their values, the last one of each name: `--a 1 2 --b=-x --c`."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, joined, value = word[2:].partition("=")
            found[name] = [value] if joined else []
        elif name:
            found[name].append(word)
    return {name: tuple(values) for name, values in found.items()}
