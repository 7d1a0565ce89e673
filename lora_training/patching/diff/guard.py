"""Split a patch file into a preamble, sections (one a file) and hunks, and refuse it if a line belongs to none.

unidiff reads hunks well but silently drops lines that it does not understand, so every line is accounted for here.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field

from lora_training.errors import PatchError

Line = tuple[int, bytes]

_HUNK = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@(?: .*)?\n?", re.DOTALL)
_MAIL = re.compile(rb"From [0-9a-f]{40,64} ")
# The keys of git's extended header lines.
META = (
    *(b"old mode", b"new mode", b"deleted file mode", b"new file mode"),
    *(b"copy from", b"copy to", b"rename from", b"rename to"),
    *(b"similarity index", b"dissimilarity index", b"index"),
)
_META = tuple(key + b" " for key in META)
# Lines that other tools than git put before `---`.
_LEADING = (b"Index: ", b"====", b"diff -")
# Outside a diff, these lines show a damaged diff or another format, which must not be skipped as text.
_DAMAGED = (
    *(b"@@", b"--- ", b"+++ ", b"*** ", b"******", b"diff --"),
    *(b"GIT binary patch", b"Binary files ", b"rename from "),
)
_PAYLOAD = re.compile(rb"[A-Za-z][0-9A-Za-z!#$%&()*+\-;<=>?@^_`{|}~]+\n?")
_MARKER = b"\\ "
# The first characters of a hunk's lines; an empty line is a context line whose space was lost.
_IN_OLD, _IN_NEW = frozenset({b" ", b"\n", b"-"}), frozenset({b" ", b"\n", b"+"})
_IN_HUNK = _IN_OLD | _IN_NEW


@dataclass
class RawHunk:
    """A hunk's header line and its body lines, unread, and the line number of the header."""

    line: int
    header: bytes
    body: list[bytes] = field(default_factory=list)


@dataclass
class Section:
    """The lines about one file: `git` is the `diff --git` line, `old` and `new` the `---` and `+++` lines."""

    line: int
    git: bytes | None = None
    meta: list[Line] = field(default_factory=list)
    old: bytes | None = None
    new: bytes | None = None
    hunks: list[RawHunk] = field(default_factory=list)
    binaries: list[tuple[bytes, list[bytes]]] = field(default_factory=list)


class _Scanner:
    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self.lines = io.BytesIO(data).readlines()
        self.at = 0
        self.preamble: list[bytes] = []
        self.sections: list[Section] = []

    def refuse(self, what: str, hint: str | None = None) -> PatchError:
        return PatchError(f"{self.name}, line {self.at + 1}: {what}", hint=hint)

    def peek(self, ahead: int = 0) -> bytes:
        index = self.at + ahead
        return self.lines[index] if index < len(self.lines) else b""

    def take(self) -> bytes:
        line = self.lines[self.at]
        self.at += 1
        return line

    def run(self) -> None:
        self.text()
        while self.at < len(self.lines):
            if self.begins_diff():
                self.section()
            elif self.peek() == b"\n":
                self.take()
            elif self.peek().rstrip(b"\r\n") == b"-- " or _MAIL.match(self.peek()):
                self.text()
            elif self.peek().startswith(_LEADING):
                self.leading()
            else:
                raise self.refuse(f"{_shown(self.peek())} belongs to no diff", _hint(self.peek()))

    def begins_diff(self) -> bool:
        if self.peek().startswith(b"diff --git "):
            return True
        return self.peek().startswith(b"--- ") and self.peek(1).startswith(b"+++ ")

    def text(self) -> None:
        """Text before a diff: a header, a mail, or a mail's signature after one."""
        while self.at < len(self.lines) and not self.begins_diff():
            if self.peek().startswith(_DAMAGED):
                raise self.refuse(f"{_shown(self.peek())} outside any diff", _hint(self.peek()))
            self.preamble.append(self.take())

    def leading(self) -> None:
        start = self.at
        while self.peek().startswith(_LEADING) and not self.begins_diff():
            self.take()
        if not self.begins_diff():
            self.at = start
            raise self.refuse(f"{_shown(self.peek())} is followed by no diff", _hint(self.peek()))

    def section(self) -> None:
        section = Section(self.at + 1)
        if self.peek().startswith(b"diff --git "):
            section.git = self.take()
            while self.peek().startswith(_META):
                section.meta.append((self.at + 1, self.take()))
        if self.peek().startswith(b"--- "):
            self.names(section)
        elif section.git and self.peek().rstrip(b"\r\n") == b"GIT binary patch":
            self.binary(section)
        elif self.peek().startswith(b"Binary files "):
            raise self.refuse("a binary change without its content", "make the patch with `git diff --binary`")
        self.sections.append(section)

    def names(self, section: Section) -> None:
        section.old = self.take()
        if not self.peek().startswith(b"+++ "):
            raise self.refuse("`---` without `+++`")
        section.new = self.take()
        while _HUNK.fullmatch(self.peek()):
            section.hunks.append(self.hunk())
        if self.peek().startswith(b"@@"):
            raise self.refuse(f"a malformed hunk header, {_shown(self.peek())}", _hint(self.peek()))
        if not section.hunks:
            raise self.refuse("`---` and `+++` without a hunk")

    def hunk(self) -> RawHunk:
        match = _HUNK.fullmatch(self.peek())
        if not match:  # pragma: no cover - the caller has looked
            raise self.refuse("a malformed hunk header")
        hunk = RawHunk(self.at + 1, self.take())
        old, new = (1 if n is None else int(n) for n in (match[2], match[4]))
        while old > 0 or new > 0:
            line = self.peek()
            kind = line[:1]
            old -= kind in _IN_OLD
            new -= kind in _IN_NEW
            if old < 0 or new < 0 or kind not in _IN_HUNK or line[-1:] != b"\n":
                self.check_hunk_line(hunk, line, max(old, new))
            hunk.body.append(line)
            self.at += 1
        if self.peek().startswith(_MARKER):
            hunk.body.append(self.take())
        return hunk

    def check_hunk_line(self, hunk: RawHunk, line: bytes, left: int) -> None:
        """Raise PatchError for an unexpected line, unless it is a no-newline marker after another line."""
        if not line:
            raise self.refuse("the patch ends inside a hunk", "it was cut off; get it again")
        if line.startswith(b"\\"):
            if hunk.body and not hunk.body[-1].startswith(b"\\"):
                return
            raise self.refuse("a no-newline marker after no line")
        if line.startswith(b"\r"):
            raise self.refuse("a CRLF line end inside a hunk", _hint(line))
        if line[:1] not in _IN_HUNK:
            raise self.refuse(f"{_shown(line)} inside a hunk", f"the hunk's header promises {left} more lines")
        if not line.endswith(b"\n"):
            raise self.refuse("the patch's last line has no end", "it was cut off; get it again")
        raise self.refuse("a hunk longer than its header says")

    def binary(self, section: Section) -> None:
        self.take()
        while re.match(rb"(literal|delta) \d+\n", self.peek()):
            header, body = self.take(), []
            while _PAYLOAD.fullmatch(self.peek()):
                body.append(self.take())
            section.binaries.append((header, body))
            if self.peek() not in (b"\n", b""):
                raise self.refuse("a damaged line in a binary patch")
            if self.at < len(self.lines):
                self.take()
        if not section.binaries:
            raise self.refuse("a binary patch without its content")


def scan(name: str, data: bytes) -> tuple[bytes, list[Section]]:
    """Split a patch file into its preamble and sections. Raises PatchError for the first line that belongs to none."""
    scanner = _Scanner(name, data)
    scanner.run()
    return b"".join(scanner.preamble), scanner.sections


def _shown(line: bytes) -> str:
    return repr(line.decode("utf-8", "replace").rstrip("\n")[:60])


def _hint(line: bytes) -> str | None:
    if line.endswith(b"\r\n"):
        return "the patch was converted to CRLF line ends; get it as it was"
    if line.startswith((b"*** ", b"***************")):
        return "this is a context diff; make it with `diff -u` or `git diff`"
    if line.startswith((b"diff --cc", b"diff --combined", b"@@@")):
        return "this is a merge's combined diff; make one against a single parent"
    return None
