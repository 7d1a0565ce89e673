"""Sections of a unified diff: the names in `---` and `+++`, and which file a diff that is not git's is for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import datetime

from lora_training.errors import PatchError
from lora_training.patching import names
from lora_training.patching.diff.guard import DAMAGED, Section
from lora_training.patching.model import Action, Change, Hunk

# A time at the end of a line, as git recognises it: a date, optionally a time of day, optionally a zone.
_TIME = rb"(?:\d\d)?\d\d-\d\d-\d\d(?: \d\d:\d\d:\d\d(?:\.\d+)?)?(?: [+-]\d\d:?\d\d)?\Z"
_AFTER_SPACE = re.compile(b" " + _TIME)
_AFTER_TAB = re.compile(b"\t" + _TIME)
# Other formats, as of Mercurial and `date`, which git takes for a part of the name.
_LIKE_A_TIME = re.compile(rb"[ T]\d?\d:\d\d(?::\d\d|[ Z]|\Z)")
# CVS and RCS put a revision after the time; Subversion has two labels in brackets.
_LABELS = re.compile(rb"(?=[^\t]{0,60}\d:\d\d)[\w:/ .+-]{6,64}\t\d+(?:\.\d+)+|\([^\t]*\)\t\([^\t]*\)")
# The time that diff gives a file that is not there; older ones do not write the time zone.
_EPOCH = re.compile(rb"\t(19(?:70-01-01|69-12-31) \d\d:\d\d:00)(?:\.0+)?(?: ([+-]\d\d:?\d\d))?\Z")
_OLD_EPOCH = re.compile(rb"\t(?:Thu Jan +1 \d\d:\d\d:00 1970|Wed Dec 31 \d\d:\d\d:00 1969)\Z")
MOST_LEVELS = 64
_STRIP_HINT = "say how many leading folders to strip with --strip"


class Reader:
    """Reads one section of the patch `name`."""

    def __init__(self, name: str, section: Section) -> None:
        self.name = name
        self.section = section

    @property
    def where(self) -> str:
        """The section's place, for messages."""
        return f"{self.name}, line {self.section.line}"

    def refuse(self, what: str, *, line: int | None = None, hint: str = DAMAGED) -> PatchError:
        """Return an error about this section."""
        return PatchError(f"{self.name}, line {line or self.section.line}: {what}", hint=hint)

    def nothing_left(self, name: str, levels: int) -> PatchError:
        """Return the error for a name with too few folders to strip."""
        return self.refuse(f"{names.shown(name)} has no {levels} folders to strip", hint="say a smaller --strip")

    def name_text(self, raw: bytes) -> str:
        """Decode a name in the patch, which may be quoted."""
        if not raw.startswith(b'"'):
            return os.fsdecode(raw)
        name, rest = self.unquote(raw)
        if rest.strip():
            raise self.refuse("something follows a quoted name")
        return name

    def unquote(self, raw: bytes) -> tuple[str, bytes]:
        """Split a quoted name from the text after it."""
        try:
            name, rest = names.unquote(raw)
        except ValueError as exc:
            raise self.refuse(str(exc)) from exc
        return os.fsdecode(name), rest

    def header_name(self, line: bytes) -> str:
        """The name in a `---` or `+++` line; a tab ends it. Absolute names are refused, `/dev/null` is not."""
        rest = line[4:].rstrip(b"\n")
        if rest.endswith(b"\r"):
            raise self.refuse("CRLF in a file's header", hint="the patch was converted; get it as it was")
        if rest.startswith(b'"'):
            name, rest = self.unquote(rest)
            if rest and not rest.startswith(b"\t") and _cut_time(rest) != b"":
                raise self.refuse("something follows a quoted name")
        else:
            name = os.fsdecode(self.bare_name(rest))
        return name if name == names.DEV_NULL else self.possible(name)

    def possible(self, name: str) -> str:
        """Return `name`. Raises PatchError for an absolute or too long one, which stripping would hide."""
        if name.startswith("/") or len(name) >= names.PATH_MAX:
            names.check(name, self.where)
        return name

    def bare_name(self, rest: bytes) -> bytes:
        """Read an unquoted name in a `---` or `+++` line. Raises PatchError when its end is not clear."""
        name, _, labels = rest.partition(b"\t")
        if b"\t" in labels:
            may_be_name = not _LABELS.fullmatch(labels) or _AFTER_TAB.search(rest)
        else:
            may_be_name = _AFTER_SPACE.search(labels)
        if may_be_name:
            raise self.refuse("where the name ends is not clear", hint="a name that holds a tab must be in quotes")
        return name


class PlainReader(Reader):
    """Reads one section that is not git's. With `levels` None, it strips as many folders as give an existing file."""

    def __init__(self, name: str, section: Section, levels: int | None, exists: Callable[[str], bool]) -> None:
        super().__init__(name, section)
        self.levels = levels
        self.exists = exists

    def change(self, hunks: tuple[Hunk, ...]) -> Change:
        """Read the section; it is never a rename."""
        old_line, new_line = self.section.old or b"", self.section.new or b""
        old, new = self.header_name(old_line), self.header_name(new_line)
        # `@@ -0,0` on a file that is not there makes it, as in git and GNU patch
        from_nothing = [(hunk.old_start, hunk.old) for hunk in hunks] == [(0, b"")]
        to_nothing = [(hunk.new_start, hunk.new) for hunk in hunks] == [(0, b"")]
        created = old == names.DEV_NULL or (from_nothing and _is_epoch(old_line))
        deleted = new == names.DEV_NULL or (to_nothing and _is_epoch(new_line))
        sides = [name for name in (old, new) if name != names.DEV_NULL]
        if not sides or (created and deleted):
            raise self.refuse("both sides are absent")
        path = self._choose(sides, created=created)
        created = created or (not deleted and from_nothing and not self.exists(path))
        action: Action = "create" if created else "delete" if deleted else "modify"
        return Change(action, path, path, self.section.line, hunks)

    def bare_name(self, rest: bytes) -> bytes:
        """Also remove a time after spaces, which git's own diffs do not have."""
        name = super().bare_name(rest)
        cut = name if b"\t" in rest else _cut_time(name)
        if cut is None:
            raise self.refuse("the name may end in a time", hint="put a tab between the name and the time")
        return cut

    def _choose(self, sides: list[str], *, created: bool) -> str:
        """Choose as POSIX says for `patch`: an existing name, the shortest of several. Ambiguous levels are refused."""
        levels = [self.levels] if self.levels is not None else self._guesses(sides)
        found = {name for level in levels if (name := self._at_level(sides, level, certain=len(levels) == 1))}
        if len(found) == 1:
            return found.pop()
        if not found and created and self.levels is None:
            raise self.refuse(f"{names.shown(sides[0])} is new, so nothing shows how much to strip", hint=_STRIP_HINT)
        if not found and self.levels is not None:
            raise self.nothing_left(sides[0], self.levels)
        said = " or ".join(names.shown(side) for side in dict.fromkeys(sides))
        what = "more than one file could be meant" if found else "no file in the tree goes by that name"
        raise self.refuse(f"{said}: {what}", hint=_STRIP_HINT)

    def _at_level(self, sides: list[str], level: int, *, certain: bool) -> str | None:
        candidates = [name for side in sides if (name := names.strip(side, level))]
        existing = [name for name in candidates if self.exists(name)]
        if not (existing or (certain and candidates)):
            return None
        # for git this is the name that counts, so it must not lead out of the tree beside a harmless one
        if new := names.strip(sides[-1], level):
            names.check(new, self.where)
        return min(existing or candidates, key=lambda name: (name.count("/"), len(name.rsplit("/", 1)[-1]), len(name)))

    def _guesses(self, sides: list[str]) -> list[int]:
        if all(side.startswith(("a/", "b/")) for side in sides):
            return [1]
        most = max(side.count("/") for side in sides)
        if most > MOST_LEVELS:
            raise self.refuse("a name in too many folders to find out how many to strip", hint=_STRIP_HINT)
        return list(range(most + 1))


def _is_epoch(line: bytes) -> bool:
    """Whether a `---` or `+++` line has the time 0, in any time zone."""
    line = line.rstrip(b"\n")
    match = _EPOCH.search(line)
    if not match:
        return bool(_OLD_EPOCH.search(line))
    try:
        time = datetime.strptime(f"{match[1].decode()}{(match[2] or b'+0000').decode()}", "%Y-%m-%d %H:%M:%S%z")
    except ValueError:
        return False
    return time.timestamp() == 0


def _cut_time(name: bytes) -> bytes | None:
    """Remove spaces and a time; None when the name ends in a time that git does not recognise."""
    time = _AFTER_SPACE.search(name)
    if time:
        return name[: time.start()].rstrip(b" ")
    return None if _LIKE_A_TIME.search(name) else name
