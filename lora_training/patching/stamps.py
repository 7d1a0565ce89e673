"""Where a name in `---` and `+++` ends: before a tab, or before a time that a mail program parted from it by spaces."""

from __future__ import annotations

import re

# What git takes for a time at the end of a line: a date, then perhaps a time of day, then perhaps a zone.
_TIME = rb"(?:\d\d)?\d\d-\d\d-\d\d(?: \d\d:\d\d:\d\d(?:\.\d+)?)?(?: [+-]\d\d:?\d\d)?\Z"
_AFTER_SPACE = re.compile(b" " + _TIME)
_AFTER_TAB = re.compile(b"\t" + _TIME)
# Other ways to write a time, as Mercurial and `date` do: git takes these for a part of the name.
_LIKE_A_TIME = re.compile(rb"[ T]\d?\d:\d\d(?::\d\d|[ Z]|\Z)")
# CVS and RCS put a revision after the time; Subversion has two labels in brackets.
_LABELS = re.compile(rb"(?=[^\t]{0,60}\d:\d\d)[\w:/ .+-]{6,64}\t\d+(?:\.\d+)+|\([^\t]*\)\t\([^\t]*\)")


def cut_labels(line: bytes) -> bytes | None:
    """The name before a tab and what follows it; None when git, or its writer, could mean a name with a tab in it."""
    name, _, labels = line.partition(b"\t")
    if b"\t" in labels:
        return name if _LABELS.fullmatch(labels) and not _AFTER_TAB.search(line) else None
    return None if _AFTER_SPACE.search(labels) else name


def cut_time(name: bytes) -> bytes | None:
    """The name before spaces and a time; None when it ends in what may be a time, but is none that git knows."""
    time = _AFTER_SPACE.search(name)
    if time:
        return name[: time.start()].rstrip(b" ")
    return None if _LIKE_A_TIME.search(name) else name
