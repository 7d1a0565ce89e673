"""The header of a patch file: fields in DEP-3's form, which say why the patch exists and when it may go."""

from __future__ import annotations

import re

from lora_training.errors import PatchError

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


def parse(name: str, preamble: bytes) -> dict[str, str]:
    """The fields before the `---` line, in order; continuation lines begin with a space, ` .` is an empty one.

    Raises PatchError for text that is no field, for one given twice, and for a header without its end.
    """
    try:
        lines = preamble.decode("utf-8").splitlines()
    except UnicodeDecodeError as exc:
        raise PatchError(f"{name}: the header is not UTF-8") from exc
    if SEPARATOR not in lines:
        raise PatchError(f"{name}: the header does not end with a line `{SEPARATOR}`", hint=_hint())
    fields: dict[str, list[str]] = {}
    last = ""
    for number, line in enumerate(lines[: lines.index(SEPARATOR)], 1):
        last = _line(fields, last, line, f"{name}, line {number}")
    return {field: "\n".join(found).lstrip("\n") for field, found in fields.items()}


def _line(fields: dict[str, list[str]], last: str, line: str, where: str) -> str:
    if line.startswith(" ") and last:
        fields[last].append("" if line == " ." else line[1:])
        return last
    match = _FIELD.fullmatch(line)
    if not match:
        raise PatchError(f"{where}: neither a field nor its continuation: {line[:60]!r}", hint=_hint())
    if match[1] in fields:
        raise PatchError(f"{where}: the field {match[1]} is there twice")
    fields[match[1]] = [match[2]]
    return match[1]


def check(name: str, fields: dict[str, str]) -> None:
    """Raise PatchError unless every required field is there and filled in."""
    missing = [field for field in REQUIRED if not fields.get(field, "").strip() or "TODO" in fields[field]]
    if missing:
        raise PatchError(f"{name}: the header lacks {', '.join(missing)}", hint=_hint())


def render(fields: dict[str, str]) -> bytes:
    """A header as it stands in a patch file, its end included."""
    lines = [f"{key}: {_folded(value)}".rstrip() for key, value in fields.items()]
    return "\n".join([*lines, SEPARATOR, ""]).encode()


def _folded(value: str) -> str:
    first, *rest = value.split("\n")
    return "\n".join([first, *(f" {line}" if line else " ." for line in rest)])


def template(**known: str) -> dict[str, str]:
    """Every required field, filled in where it is known."""
    return {field: known.get(field.replace("-", "_").lower(), "TODO") for field in REQUIRED}


def _hint() -> str:
    return f"a header has the fields {', '.join(REQUIRED)}, then a line `{SEPARATOR}`"
