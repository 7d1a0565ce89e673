"""`patches/<upstream>/series` and the files it lists, in quilt's format."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_training.errors import PatchError, UpstreamError
from lora_training.patching.diff import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from lora_training.patching.model import Patch

SERIES = "series"
REQUIRED = (
    "Description",
    "Author",
    "Origin",
    "Bug",
    "Forwarded",
    "Last-Update",
    "Upstream-Version",
    "Reason",
    "Verification",
    "Removal-Condition",
)
SEPARATOR = "---"
_FIELD = re.compile(r"([A-Z][A-Za-z-]*): ?(.*)")


@dataclass(frozen=True)
class Target:
    """An upstream: its tree, the folder of its patches, the commit it is at (None: unknown) and its pin.

    `manifest` returns the sha256 of every pristine file of a tree that is no repository; None for a repository.
    `changed` returns the files that differ from the commit, new files included.
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
    """The header of a patch file."""

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
    """Whether the tree has files: git leaves an empty folder for each submodule."""
    return target.root.is_dir() and any(target.root.iterdir())


def check_at_pin(target: Target) -> None:
    """Raise UpstreamError when the tree is missing or at another commit than its pin."""
    if not is_there(target):
        raise UpstreamError(f"{target.name} is not there: {target.root}", hint="run `lora upstream sync`")
    if target.commit != target.pin:
        at = target.commit or "an unknown commit"
        raise UpstreamError(f"{target.name} is at {at}, its pin is {target.pin}", hint="run `lora upstream sync`")


def names(folder: Path) -> tuple[str, ...]:
    """The names of the patch files in a series, in order. Raises PatchError for a malformed line."""
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
    """Read every patch file of a series, in order. Raises PatchError when one is missing."""
    return {name: _read_one(folder, name) for name in names(folder)}


def _read_one(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as exc:
        raise PatchError(f"{folder / name}: {exc.strerror}", hint=f"it is listed in {folder / SERIES}") from exc


def headers(folder: Path) -> tuple[Headed, ...]:
    """Read and check the header of every patch of a series, without the diffs."""
    return tuple(_headed(name, data) for name, data in read_bytes(folder).items())


def _headed(name: str, data: bytes) -> Headed:
    head, end, _ = data.partition(b"\n---\n")
    fields = parse_header(name, head + end)
    check_header(name, fields)
    return Headed(name, fields)


def read(folder: Path) -> tuple[SeriesPatch, ...]:
    """Read every patch of a series. Raises PatchError for the first with a malformed diff or incomplete header."""
    return tuple(parse_one(name, data) for name, data in read_bytes(folder).items())


def parse_one(name: str, data: bytes) -> SeriesPatch:
    """Read one patch of a series. Raises PatchError when its diff is malformed or its header incomplete."""
    patch = parse(name, data)
    fields = parse_header(name, patch.preamble)
    check_header(name, fields)
    return SeriesPatch(patch, fields, data)


def parse_header(name: str, preamble: bytes) -> dict[str, str]:
    """Read the fields of a patch's header in DEP-3's form; continuation lines begin with a space, ` .` is an empty one.

    Raises PatchError for other text, for a field given twice, and for a header without the `---` line.
    """
    try:
        lines = preamble.decode("utf-8").splitlines()
    except UnicodeDecodeError as exc:
        raise PatchError(f"{name}: the header is not UTF-8") from exc
    if SEPARATOR not in lines:
        raise PatchError(f"{name}: the header does not end with a line `{SEPARATOR}`", hint=_header_hint())
    fields: dict[str, list[str]] = {}
    last = ""
    for number, line in enumerate(lines[: lines.index(SEPARATOR)], 1):
        last = _parse_line(fields, last, line, f"{name}, line {number}")
    return {field: "\n".join(found).lstrip("\n") for field, found in fields.items()}


def _parse_line(fields: dict[str, list[str]], last: str, line: str, where: str) -> str:
    if line.startswith(" ") and last:
        fields[last].append("" if line == " ." else line[1:])
        return last
    match = _FIELD.fullmatch(line)
    if not match:
        raise PatchError(f"{where}: neither a field nor its continuation: {line[:60]!r}", hint=_header_hint())
    if match[1] in fields:
        raise PatchError(f"{where}: the field {match[1]} is there twice")
    fields[match[1]] = [match[2]]
    return match[1]


def check_header(name: str, fields: dict[str, str]) -> None:
    """Raise PatchError unless every required field is filled in."""
    missing = [field for field in REQUIRED if not fields.get(field, "").strip() or "TODO" in fields[field]]
    if missing:
        raise PatchError(f"{name}: the header lacks {', '.join(missing)}", hint=_header_hint())


def render_header(fields: dict[str, str]) -> bytes:
    """The text of a header, with its `---` line."""
    lines = [f"{key}: {_folded(value)}".rstrip() for key, value in fields.items()]
    return "\n".join([*lines, SEPARATOR, ""]).encode()


def _folded(value: str) -> str:
    first, *rest = value.split("\n")
    return "\n".join([first, *(f" {line}" if line else " ." for line in rest)])


def header_template(**known: str) -> dict[str, str]:
    """A header with every required field, `TODO` where the value is not known."""
    return {field: known.get(field.replace("-", "_").lower(), "TODO") for field in REQUIRED}


def _header_hint() -> str:
    return f"a header has the fields {', '.join(REQUIRED)}, then a line `{SEPARATOR}`"
