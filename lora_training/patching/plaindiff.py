"""Unified diffs that are not git's: which file is meant has to be worked out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lora_training.patching import names, stamps
from lora_training.patching.model import Action, Change, Hunk
from lora_training.patching.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from lora_training.patching.scan import Section

# How diff writes the time of a file that is not there, in the time zones near Greenwich.
_EPOCH = re.compile(rb"\t(?:1970-01-01 |1969-12-31 |Thu Jan +1 00:00:00 1970|Wed Dec 31 [0-9:]+ 1969)")
_MOST_LEVELS = 64
_STRIP_HINT = "say how many leading folders to strip with --strip"


class PlainReader(Reader):
    """Reads one plain section. `levels` None: find the one number of folders to strip for which the file is there."""

    def __init__(self, name: str, section: Section, levels: int | None, exists: Callable[[str], bool]) -> None:
        super().__init__(name, section)
        self.levels = levels
        self.exists = exists
        self.old_line = section.old or b""
        self.new_line = section.new or b""

    def change(self, hunks: tuple[Hunk, ...]) -> Change:
        """The Change that the section describes; never a rename."""
        old, new = self.header_name(self.old_line), self.header_name(self.new_line)
        created = old == names.DEV_NULL or bool(_EPOCH.search(self.old_line))
        deleted = new == names.DEV_NULL or bool(_EPOCH.search(self.new_line))
        sides = [name for name in (old, new) if name != names.DEV_NULL]
        if not sides or (created and deleted):
            raise self.refuse("both sides are absent")
        path = self._choose(sides, created=created)
        # `@@ -0,0` on a file that is not there makes it, as in git and GNU patch
        created = created or (
            not deleted and [(hunk.old_start, hunk.old) for hunk in hunks] == [(0, b"")] and not self.exists(path)
        )
        action: Action = "create" if created else "delete" if deleted else "modify"
        return Change(action, path, path, self.section.line, hunks)

    def bare_name(self, rest: bytes) -> bytes:
        """The same, also without a time that spaces part from the name: git's own diffs have none."""
        name = super().bare_name(rest)
        cut = name if b"\t" in rest else stamps.cut_time(name)
        if cut is None:
            raise self.refuse("the name may end in a time", hint="put a tab between the name and the time")
        return cut

    def _choose(self, sides: list[str], *, created: bool) -> str:
        """POSIX's rule for `patch`: a name that exists, the shortest of several; a guess between levels is refused."""
        levels = [self.levels] if self.levels is not None else self._guesses(sides)
        found = {name for level in levels if (name := self._at_level(sides, level, certain=len(levels) == 1))}
        if len(found) == 1:
            return found.pop()
        if not found and created and self.levels is None:
            raise self.refuse(f"{names.shown(sides[0])} is new, so nothing shows how much to strip", hint=_STRIP_HINT)
        said = " or ".join(names.shown(side) for side in dict.fromkeys(sides))
        what = "more than one file could be meant" if found else "no file in the tree goes by that name"
        raise self.refuse(f"{said}: {what}", hint=_STRIP_HINT)

    def _at_level(self, sides: list[str], level: int, *, certain: bool) -> str | None:
        candidates = [name for side in sides if (name := names.strip(side, level))]
        there = [name for name in candidates if self.exists(name)]
        if not (there or (certain and candidates)):
            return None
        # for git this is the name that counts, so it must not lead out of the tree beside a harmless one
        if new := names.strip(sides[-1], level):
            names.check(new, self.where)
        return min(there or candidates, key=_brevity)

    def _guesses(self, sides: list[str]) -> list[int]:
        if all(side.startswith(("a/", "b/")) for side in sides):
            return [1]
        most = max(side.count("/") for side in sides)
        if most > _MOST_LEVELS:
            raise self.refuse("a name in too many folders to find out how many to strip", hint=_STRIP_HINT)
        return list(range(most + 1))


def _brevity(name: str) -> tuple[int, int, int]:
    return name.count("/"), len(name.rsplit("/", 1)[-1]), len(name)
