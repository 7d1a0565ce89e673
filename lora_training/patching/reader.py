"""What git's diffs and other unified diffs have in common: a section, its place in the file, its `---` and `+++`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_training.errors import PatchError
from lora_training.patching import names, stamps

if TYPE_CHECKING:
    from lora_training.patching.scan import Section


class Reader:
    """One section of the patch `name`, on its way to a Change."""

    def __init__(self, name: str, section: Section) -> None:
        self.name = name
        self.section = section

    @property
    def where(self) -> str:
        """How messages call this section."""
        return f"{self.name}, line {self.section.line}"

    def refuse(self, what: str, *, line: int | None = None, hint: str | None = None) -> PatchError:
        """The error to raise about this section."""
        return PatchError(f"{self.name}, line {line or self.section.line}: {what}", hint=hint)

    def name_text(self, raw: bytes) -> str:
        """A name as it stands in the patch, unquoted."""
        if not raw.startswith(b'"'):
            return names.text(raw)
        name, rest = self.unquote(raw)
        if rest.strip():
            raise self.refuse("something follows a quoted name")
        return name

    def unquote(self, raw: bytes) -> tuple[str, bytes]:
        """A quoted name at the start of `raw`, and what follows it."""
        try:
            name, rest = names.unquote(raw)
        except ValueError as exc:
            raise self.refuse(str(exc)) from exc
        return names.text(name), rest

    def header_name(self, line: bytes) -> str:
        """The name in a `---` or `+++` line; a tab ends it. Absolute names are refused, `/dev/null` is not."""
        rest = line[4:].rstrip(b"\n")
        if rest.endswith(b"\r"):
            raise self.refuse("CRLF in a file's header", hint="the patch was converted; get it as it was")
        if rest.startswith(b'"'):
            name, rest = self.unquote(rest)
            if rest and not rest.startswith(b"\t") and stamps.cut_time(rest) != b"":
                raise self.refuse("something follows a quoted name")
        else:
            name = names.text(self.bare_name(rest))
        return name if name == names.DEV_NULL else self.possible(name)

    def possible(self, name: str) -> str:
        """`name`, unless it is absolute or too long, which stripping must not hide."""
        if name.startswith("/") or len(name) >= names.PATH_MAX:
            names.check(name, self.where)
        return name

    def bare_name(self, rest: bytes) -> bytes:
        """The name in a `---` or `+++` line that is not quoted. Raises PatchError when its end is not clear."""
        name = stamps.cut_labels(rest)
        if name is None:
            raise self.refuse("where the name ends is not clear", hint="a name that holds a tab must be in quotes")
        return name
