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
# After one of these lines comes text, which may look like a hunk: a mail, a message, a property of Subversion's.
_TEXT = re.compile(rb"(?:From|commit) [0-9a-f]{40,64}\b|-- \r?\n?\Z|Property changes on: |# HG changeset patch")
# Where `diff -r` leaves a file out.
_ONLY_IN = re.compile(rb"Only in [^:]+: ")
# How `git diff --submodule=log` writes the change of a submodule.
_SUBMODULE = re.compile(rb"Submodule .+ [0-9a-f]{7,64}\.\.\.?[0-9a-f]{7,64}\b")
# The keys of git's extended header lines.
META = (
    *(b"old mode", b"new mode", b"deleted file mode", b"new file mode"),
    *(b"copy from", b"copy to", b"rename from", b"rename to"),
    *(b"similarity index", b"dissimilarity index", b"index"),
)
_META = tuple(key + b" " for key in META)
_INDEX = b"Index: "
# Outside a diff, these lines show a damaged diff or another format, which must not be skipped as text.
_DAMAGED = (
    *(b"@@", b"--- ", b"+++ ", b"*** ", b"******", b"diff --"),
    *(b"GIT binary patch", b"Binary files ", b"rename from "),
)
_PAYLOAD = re.compile(rb"[A-Za-z][0-9A-Za-z!#$%&()*+\-;<=>?@^_`{|}~]+\n?")
_MARKER = b"\\ "
# Other text after a diff must not begin with a line that could be a hunk's, nor contain one that changes something.
_LIKE_A_HUNK = (b" ", b"\t", b"\r", b"+", b"-", b"\\", b"@")
_LIKE_A_CHANGE = (b"+", b"-", b"\\", b"@@")
# The first characters of a hunk's lines; an empty line is a context line whose space was lost.
_IN_OLD, _IN_NEW = frozenset({b" ", b"\n", b"-"}), frozenset({b" ", b"\n", b"+"})
_IN_HUNK = _IN_OLD | _IN_NEW


DAMAGED = "the patch is damaged or was edited by hand; get it again as it was"
SUBMODULE = "take this out of the patch, and move the submodule in its own repository"
_BINARY = "make the patch with `git diff --binary`"
_NO_DIFF = "that file is empty or binary; make the patch with `git diff --binary`, or take these lines out"
_HINTS: tuple[tuple[bytes | tuple[bytes, ...], str], ...] = (
    ((b"*** ", b"***************"), "this is a context diff; make it with `diff -u` or `git diff`"),
    ((b"diff --cc", b"diff --combined", b"@@@"), "this is a merge's combined diff; make one against a single parent"),
    (b"Only in ", "that file is not in the patch; make it with `diff -ruN`, or take this line out"),
    (b"Binary files ", _BINARY),
    (b"Submodule ", SUBMODULE),
    ((_INDEX, b"diff -"), _NO_DIFF),
    (_LIKE_A_HUNK, "does a hunk's header count too few lines? before text after a diff, put a line `-- `"),
)


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
        # the line after a git section that has no more than its first lines
        self.bare = -1

    def refuse(self, what: str, hint: str = DAMAGED) -> PatchError:
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
            elif self.begins_leading():
                self.leading()
            elif _TEXT.match(self.peek()):
                self.text()
            elif self.peek() == b"\n":
                self.take()
            else:
                self.text_behind()

    def begins_diff(self) -> bool:
        if self.peek().startswith(b"diff --git "):
            return True
        return self.peek().startswith(b"--- ") and self.peek(1).startswith(b"+++ ")

    def begins_leading(self) -> bool:
        """Whether these are lines that other tools than git put before `---`, or in its place."""
        line, following = self.peek(), self.peek(1)
        if line.startswith(_INDEX):
            return following.startswith((b"====", b"--- ", b"diff -"))
        ends = (
            not following or following.startswith((b"--- ", b"diff -", b"Binary files ")) or _ONLY_IN.match(following)
        )
        return bool(ends) and (line.startswith(b"diff -") or bool(_ONLY_IN.match(line)))

    def text(self) -> None:
        """Text before a diff: a header, a mail, or a mail's signature after one."""
        while self.at < len(self.lines) and not self.begins_diff() and not self.begins_leading():
            self.check_text(_DAMAGED)
            self.preamble.append(self.take())

    def text_behind(self) -> None:
        """Other text after a diff."""
        if self.peek().rstrip() == b"--":
            # a signature whose space was lost
            self.take()
        elif self.at == self.bare or self.peek().startswith(_LIKE_A_HUNK):
            raise self.refuse(f"{_shown(self.peek())} belongs to no diff", _hint(self.peek()))
        while self.at < len(self.lines) and not (
            self.begins_diff() or self.begins_leading() or _TEXT.match(self.peek())
        ):
            self.check_text((*_DAMAGED, *_LIKE_A_CHANGE))
            self.take()

    def check_text(self, refused: tuple[bytes, ...]) -> None:
        if self.peek().startswith(refused) or _SUBMODULE.match(self.peek()):
            raise self.refuse(f"{_shown(self.peek())} outside any diff", _hint(self.peek()))

    def leading(self) -> None:
        """The lines before `---`. Raises PatchError when no diff follows at once."""
        first, start = self.take(), self.at
        while self.peek().strip() and not self.begins_diff() and not self.begins_leading():
            self.take()
        if first.startswith(_INDEX) and self.peek().startswith(b"diff -") and not self.begins_diff():
            self.take()
        if _ONLY_IN.match(first) or not self.begins_diff():
            self.at = start - 1
            raise self.refuse(f"{_shown(first)} belongs to no diff", _hint(first))

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
            raise self.refuse("a binary change without its content", _BINARY)
        else:
            self.bare = self.at
        # Subversion writes the names of a file of which only properties changed
        if section.hunks or section.old is None:
            self.sections.append(section)

    def names(self, section: Section) -> None:
        section.old = self.take()
        if not self.peek().startswith(b"+++ "):
            raise self.refuse("`---` without `+++`")
        section.new = self.take()
        while header := _HUNK.fullmatch(self.peek()):
            section.hunks.append(self.hunk(header))
        if self.peek().startswith(b"@@"):
            raise self.refuse(f"a malformed hunk header, {_shown(self.peek())}", _hint(self.peek()))
        if not section.hunks and not (self.peek() == b"\n" and self.peek(1).startswith(b"Property changes on: ")):
            raise self.refuse("`---` and `+++` without a hunk")

    def hunk(self, header: re.Match[bytes]) -> RawHunk:
        hunk = RawHunk(self.at + 1, self.take())
        old, new = (1 if n is None else int(n) for n in (header[2], header[4]))
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


def _hint(line: bytes) -> str:
    if line.endswith(b"\r\n"):
        return "the patch was converted to CRLF line ends; get it as it was"
    return next((hint for starts, hint in _HINTS if line.startswith(starts)), DAMAGED)
