"""`patches/<upstream>/series` and the files it lists, in quilt's format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lora_training.errors import PatchError, UpstreamError
from lora_training.patching.diff import parse
from lora_training.patching.model import Patch, sha256

SERIES = "series"
# The fields of a header: the form of the first line, and the same in words.
FIELDS = {
    "Description": (".+", "the change in one line; more lines begin with a space"),
    "Author": (".+", "your name"),
    "Origin": (r"(vendor|upstream|backport|other)\b.*", "vendor (made here), upstream, backport or other"),
    "Bug": (r"(none\b|https?://).*", "the address of the report, or none"),
    "Forwarded": (r"(no|not-needed|yes)\b.*|https?://.+", "no, not-needed (and why), yes, or the address"),
    "Last-Update": (r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])", "a date, YYYY-MM-DD"),
    "Upstream-Version": (".+", "the upstream and its commit or version"),
    "Reason": (".+", "what goes wrong without the patch"),
    "Verification": (".+", "the command or test that shows that it works"),
    "Removal-Condition": (r"(upstream-commit|version >=|probe) .+", "upstream-commit SHA, version >= X, or probe NAME"),
}
_TODO = "TODO"
_SEPARATOR = "---"
_HINT = f"a header has the fields {', '.join(FIELDS)}, then a line `{_SEPARATOR}`"
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
class SeriesPatch:
    """A patch of a series, with its header's fields; a draft's may be incomplete, and its diff missing."""

    patch: Patch
    fields: dict[str, str]

    @property
    def name(self) -> str:
        """The file's name in its series."""
        return self.patch.name


def is_there(target: Target) -> bool:
    """Return whether the tree has files: git leaves an empty folder for each submodule."""
    return target.root.is_dir() and any(target.root.iterdir())


def check_there(target: Target) -> None:
    """Raise UpstreamError when the tree is missing."""
    if not is_there(target):
        hint = "run `lora upstream sync`; README, Mirrors, where its host is out of reach"
        raise UpstreamError(f"{target.name} is not there: {target.root}", hint=hint)


def check_at_pin(target: Target) -> None:
    """Raise UpstreamError when the tree is missing or at another commit than its pin."""
    check_there(target)
    if target.commit != target.pin:
        at = target.commit or "an unknown commit"
        raise UpstreamError(f"{target.name} is at {at}, its pin is {target.pin}", hint="run `lora upstream sync`")


def names(folder: Path) -> tuple[str, ...]:
    """Return the names of the patch files in a series, in order. Raises PatchError for a malformed line."""
    path = folder / SERIES
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as exc:
        raise PatchError(f"cannot read {path}: {exc}", hint="restore it from git") from exc
    found = []
    for number, line in enumerate(lines, 1):
        name, *options = line.split("#")[0].split() or [""]
        where = f"{path.name} of {folder.name}, line {number}"
        if options not in ([], ["-p1"]):
            raise PatchError(f"{where}: {' '.join(options)} is not supported", hint="patches here are made with -p1")
        if Path(name).name != name or "\0" in name:
            raise PatchError(f"{where}: {name} is not in the series' own folder", hint="name the file alone")
        found += [name] if name else []
    if len(set(found)) != len(found):
        raise PatchError(f"{path}: a patch is listed twice", hint="take one of the lines out")
    return tuple(found)


def read_bytes(folder: Path, without: Path | None = None) -> dict[str, bytes]:
    """Read every patch file of a series but `without`, in order. Raises PatchError when one is missing."""
    try:
        return {name: (folder / name).read_bytes() for name in names(folder) if folder / name != without}
    except OSError as exc:
        what = f"{Path(exc.filename).name}: it cannot be read from {folder}: {exc.strerror}"
        raise PatchError(what, hint=f"it is listed in {folder / SERIES}") from exc


def blamed(folder: Path, exc: PatchError) -> str | None:
    """Return the name of the patch of a series that an error is about, with which its message begins."""
    first = exc.message.split()[0].rstrip(":,")
    return first if first in names(folder) else None


def headers(folder: Path, without: Path | None = None) -> dict[str, dict[str, str]]:
    """Read and check the header of every patch of a series, without the diffs; its fields by the patch's name."""
    found = {}
    for name, data in read_bytes(folder, without).items():
        head, end, _ = data.partition(b"\n---\n")
        found[name] = _checked(name, parse_header(name, head + end))
    return found


def read(folder: Path, without: Path | None = None) -> tuple[SeriesPatch, ...]:
    """Read every patch of a series. Raises PatchError for the first with a malformed diff or incomplete header."""
    patches = [parse(name, data) for name, data in read_bytes(folder, without).items()]
    return tuple(SeriesPatch(each, _checked(each.name, parse_header(each.name, each.preamble))) for each in patches)


def read_drafts(folder: Path) -> tuple[SeriesPatch, ...]:
    """Read every patch of a series, with an incomplete header or without a diff, too."""
    found = []
    for name, data in read_bytes(folder).items():
        head, end, body = data.partition(b"\n---\n")
        patch = parse(name, data) if body.strip() else Patch(name, sha256(data), head + end, ())
        found.append(SeriesPatch(patch, parse_header(name, head + end)))
    return tuple(found)


def parse_header(name: str, preamble: bytes) -> dict[str, str]:
    """Read the fields of a patch's header in DEP-3's form; continuation lines begin with a space, ` .` is an empty one.

    Raises PatchError for other text, for a field given twice, and for a header without the `---` line.
    """
    try:
        lines = preamble.decode("utf-8").splitlines()
    except UnicodeDecodeError as exc:
        raise PatchError(f"{name}: the header is not UTF-8", hint="save the file as UTF-8") from exc
    if _SEPARATOR not in lines:
        raise PatchError(f"{name}: the header does not end with a line `{_SEPARATOR}`", hint=_HINT)
    fields: dict[str, list[str]] = {}
    last = ""
    for number, line in enumerate(lines[: lines.index(_SEPARATOR)], 1):
        where = f"{name}, line {number}"
        if line.startswith(" ") and last:
            fields[last].append("" if line == " ." else line[1:])
            continue
        match = _FIELD.fullmatch(line)
        if not match:
            raise PatchError(f"{where}: neither a field nor its continuation: {line[:60]!r}", hint=_HINT)
        last = match[1]
        if last in fields:
            raise PatchError(f"{where}: the field {last} is there twice", hint="take one of them out")
        fields[last] = [match[2]]
    return {field: "\n".join(found).lstrip("\n") for field, found in fields.items()}


def _checked(name: str, fields: dict[str, str]) -> dict[str, str]:
    """Return the fields of a header. Raises PatchError unless every required one is filled in."""
    missing = unfilled(fields)
    given = {field: fields[field].split("\n")[0] for field in FIELDS if field not in missing}
    wrong = [field for field, text in given.items() if not re.fullmatch(FIELDS[field][0], text)]
    faults = [f"still to fill in: {', '.join(missing)}"] if missing else []
    faults += [f"{field} cannot be `{given[field][:60]}`" for field in wrong]
    if faults:
        allowed = (f"{field}: {FIELDS[field][1]}" for field in FIELDS if field in {*missing, *wrong})
        raise PatchError(f"{name}: {'; '.join(faults)}", hint="\n".join(allowed))
    return fields


def render_header(fields: dict[str, str]) -> bytes:
    """Return the text of a header, with its `---` line."""
    lines = []
    for key, value in fields.items():
        first, *rest = value.split("\n")
        folded = "\n".join([first, *(f" {line}" if line else " ." for line in rest)])
        lines.append(f"{key}: {folded}".rstrip())
    return "\n".join([*lines, _SEPARATOR, ""]).encode()


def unfilled(fields: Mapping[str, str]) -> list[str]:
    """Return the required fields of a header that have no value yet."""
    return [field for field in FIELDS if not fields.get(field, "").strip() or fields[field].startswith(_TODO)]


def header_template(**known: str) -> dict[str, str]:
    """Return a header with every required field; those that are not known say what is allowed."""
    return {
        field: known.get(field.replace("-", "_").lower(), f"{_TODO}: {words}") for field, (_, words) in FIELDS.items()
    }
