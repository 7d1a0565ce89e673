"""`patches/<upstream>/series` and the files it lists, in quilt's format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_training.errors import PatchError, UpstreamError
from lora_training.patching import header
from lora_training.patching.parse import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from lora_training.patching.model import Patch

SERIES = "series"


@dataclass(frozen=True)
class Target:
    """An upstream as patching sees it: its tree, its patches, the commit it is at (None: unknown) and its pin.

    `manifest` gives the sha256 of every pristine file of a tree that is no repository; None where git knows them.
    `changed` gives the files that differ from the commit, those that are new included.
    """

    name: str
    root: Path
    patches: Path
    commit: str | None
    pin: str
    manifest: Callable[[], Mapping[str, str]] | None = None
    changed: Callable[[], Iterable[str]] = tuple


@dataclass(frozen=True)
class Headed:
    """A patch file's header alone."""

    name: str
    fields: dict[str, str]


@dataclass(frozen=True)
class SeriesPatch:
    """A patch of a series, with its header's fields."""

    patch: Patch
    fields: dict[str, str]
    data: bytes

    @property
    def name(self) -> str:
        """The file's name in its series."""
        return self.patch.name


def is_there(target: Target) -> bool:
    """Whether there is anything in the tree: git leaves an empty folder for each submodule."""
    return target.root.is_dir() and any(target.root.iterdir())


def check_at_pin(target: Target) -> None:
    """Raise UpstreamError when the tree is missing or at another commit than its pin."""
    if not is_there(target):
        raise UpstreamError(f"{target.name} is not there: {target.root}", hint="run `lora upstream sync`")
    if target.commit != target.pin:
        at = target.commit or "an unknown commit"
        raise UpstreamError(f"{target.name} is at {at}, its pin is {target.pin}", hint="run `lora upstream sync`")


def names(folder: Path) -> tuple[str, ...]:
    """The patch files that a series lists, in order; none when there is no series. Raises PatchError for a bad line."""
    path = folder / SERIES
    found = []
    for number, line in enumerate(_lines(path), 1):
        words = line.split("#")[0].split()
        if words:
            found.append(_name(f"{path.name} of {folder.name}, line {number}", words))
    if len(set(found)) != len(found):
        raise PatchError(f"{path}: a patch is listed twice")
    return tuple(found)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as exc:
        raise PatchError(f"cannot read {path}: {exc}", hint="restore it from git") from exc


def _name(where: str, words: list[str]) -> str:
    if words[1:] not in ([], ["-p1"]):
        raise PatchError(f"{where}: {' '.join(words[1:])} is not supported", hint="patches here are made with -p1")
    if Path(words[0]).name != words[0] or "\0" in words[0]:
        raise PatchError(f"{where}: {words[0]} is not in the series' own folder")
    return words[0]


def read_bytes(folder: Path) -> dict[str, bytes]:
    """Every patch file of a series, by name, in order. Raises PatchError when one is missing."""
    return {name: _read_one(folder, name) for name in names(folder)}


def _read_one(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as exc:
        raise PatchError(f"{folder / name}: {exc.strerror}", hint=f"it is listed in {folder / SERIES}") from exc


def headers(folder: Path) -> tuple[Headed, ...]:
    """The header of every patch of a series, checked; the diffs are not read."""
    return tuple(_headed(name, data) for name, data in read_bytes(folder).items())


def _headed(name: str, data: bytes) -> Headed:
    head, end, _ = data.partition(b"\n---\n")
    fields = header.parse(name, head + end)
    header.check(name, fields)
    return Headed(name, fields)


def read(folder: Path) -> tuple[SeriesPatch, ...]:
    """Every patch of a series, parsed, its header checked. Raises PatchError for the first that is not in order."""
    return tuple(parse_one(name, data) for name, data in read_bytes(folder).items())


def parse_one(name: str, data: bytes) -> SeriesPatch:
    """One patch file of a series. Raises PatchError when it is malformed or its header is not complete."""
    patch = parse(name, data)
    fields = header.parse(name, patch.preamble)
    header.check(name, fields)
    return SeriesPatch(patch, fields, data)
