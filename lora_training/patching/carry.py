"""Carry a series over to another version of its upstream: hunk by hunk, in memory, with a word on each.

Nothing is guessed: a hunk goes in where its exact lines are, where git merges it without a conflict, or, when its file
has gone or lost them, where its exact lines are in one other file only; what that leaves is a conflict.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from lora_training.errors import PatchError
from lora_training.patching import merging, place, plan
from lora_training.patching.model import Node, state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lora_training.patching.model import Change, Hunk, Patch

Fate = Literal["clean", "moved", "merged", "already upstream", "elsewhere", "conflict"]

# A hunk that is looked for in other files must say enough to be recognised: this many lines with something on them.
_ENOUGH = 3


@dataclass(frozen=True)
class HunkReport:
    """What became of one hunk (or of a change without hunks, `line` then being the section's).

    `path` is where the patch has it, `place` where it went: a file, and with `offset` lines between the two.
    """

    patch: str
    line: int
    path: str
    fate: Fate
    place: str
    offset: int = 0
    note: str = ""


@dataclass(frozen=True)
class Carried:
    """One patch, carried: the files before and after it in the new version. The same both times: it is not needed."""

    name: str
    before: plan.Image
    after: plan.Image
    hunks: tuple[HunkReport, ...]

    @property
    def is_needed(self) -> bool:
        """Whether the patch still changes anything."""
        return any(state_of(self.before.get(path)) != state_of(node) for path, node in self.after.items())


class NewTree:
    """The files of the new version, as the series has changed them so far. `paths` are all that there are."""

    def __init__(self, paths: Iterable[str], read: Callable[[str], Node | None]) -> None:
        self.paths = tuple(paths)
        self._read = read
        self._known: plan.Image = {}

    def get(self, path: str) -> Node | None:
        """A file, as it is now."""
        if path not in self._known:
            self._known[path] = self._read(path)
        return self._known[path]

    def put(self, path: str, node: Node | None) -> None:
        """Change a file."""
        self._known[path] = node

    def holding(self, block: bytes, like: str) -> list[_Place]:
        """Where these whole lines are, in files whose names end as that of `like` does, each place."""
        suffix = like[like.rfind(".") :] if "." in like else ""
        found = []
        for path in self.paths:
            node = self.get(path) if path.endswith(suffix) and path != like else None
            if node is not None and not node.is_folder:
                found += [_Place(path, node, at, line) for at, line in place.occurrences(node.data, block)]
        return found


class _Place(NamedTuple):
    path: str
    node: Node
    at: int
    line: int


class _Found(NamedTuple):
    """What becomes of a hunk: `node` is what `path` shall be, None to leave it."""

    fate: Fate
    path: str
    node: Node | None = None
    offset: int = 0
    note: str = ""


def carry(patches: Sequence[Patch], old: plan.Image, new: NewTree) -> list[Carried]:
    """Every patch of a series, in order. `old` holds the pristine files that it was made for."""
    carried = []
    for patch in patches:
        after = plan.apply(patch, old).image
        carried.append(_Carrier(patch, old, after, new).run())
        old = after
    return carried


class _Carrier:
    """One patch on its way. `old` and `old_after` are the files around it in the version that it was made for."""

    def __init__(self, patch: Patch, old: plan.Image, old_after: plan.Image, new: NewTree) -> None:
        self.patch, self.old, self.old_after, self.new = patch, old, old_after, new
        self.before: plan.Image = {}
        self.reports: list[HunkReport] = []

    def run(self) -> Carried:
        for change in self.patch.changes:
            if change.action == "modify" and change.hunks:
                self.in_hunks(change)
            else:
                self.as_a_whole(change)
        after = {path: self.new.get(path) for path in self.before}
        return Carried(self.patch.name, self.before, after, tuple(self.reports))

    def write(self, path: str, node: Node | None) -> None:
        self.before.setdefault(path, self.new.get(path))
        self.new.put(path, node)

    def report(self, change: Change, line: int, found: _Found) -> None:
        report = HunkReport(self.patch.name, line, change.old, found.fate, found.path, found.offset, found.note)
        self.reports.append(report)

    def as_a_whole(self, change: Change) -> None:
        """A change that is not one of a file's lines: it goes in as it is, or not."""
        now: plan.Image = {path: self.new.get(path) for path in change.paths}
        found = _Found("clean", change.new)
        if all(state_of(now[path]) == state_of(self.old_after.get(path)) for path in change.paths):
            found = _Found("already upstream", change.new)
        else:
            try:
                written = plan.apply(replace(self.patch, changes=(change,)), now).written
            except PatchError as exc:
                written, found = {}, _Found("conflict", change.old, note=exc.message)
            for path, node in written.items():
                self.write(path, node)
        self.report(change, change.line, found)

    def in_hunks(self, change: Change) -> None:
        shift = 0
        for hunk in change.hunks:
            found = self.one_hunk(change, hunk._replace(old_start=hunk.old_start + shift))
            if found.node is not None:
                mode = change.new_mode or found.node.mode
                self.write(found.path, replace(found.node, mode=mode))
                shift += (hunk.new.count(b"\n") - hunk.old.count(b"\n")) if found.path == change.old else 0
            self.report(change, hunk.line, found)

    def one_hunk(self, change: Change, hunk: Hunk) -> _Found:
        now = self.new.get(change.old)
        found = None
        if now is not None and not now.is_folder and not now.is_link:
            found = _in_place(change.old, now, hunk) or self.merged(change, now, hunk)
        return found or self.elsewhere(change, hunk)

    def merged(self, change: Change, now: Node, hunk: Hunk) -> _Found | None:
        base = self.old[change.old]
        if base is None:  # pragma: no cover - the patch went into the old version
            return None
        original = next(h for h in change.hunks if h.line == hunk.line)
        data = merging.merge(now.data, base.data, place.apply(base.data, [original])[0])
        if data is None:
            return None
        if data == now.data:
            return _Found("already upstream", change.old)
        return _Found("merged", change.old, replace(now, data=data))

    def elsewhere(self, change: Change, hunk: Hunk) -> _Found:
        """The hunk's exact lines, in the one other file that has them; or where most of them are, as an offer."""
        if _weight(hunk.old) >= _ENOUGH:
            places = self.new.holding(hunk.old, change.old)
            if len(places) == 1:
                return _put(places[0], hunk)
            if len(places) > 1:
                files = ", ".join(f"{p.path} line {p.line + 1}" for p in places[:4])
                return _Found("conflict", change.old, note=f"its lines are in more than one place: {files}")
        if _weight(hunk.new) >= _ENOUGH and len(places := self.new.holding(hunk.new, change.old)) == 1:
            return _Found("already upstream", places[0].path)
        return _Found("conflict", change.old, note=self.offer(change, hunk))

    def offer(self, change: Change, hunk: Hunk) -> str:
        core = _core(hunk)
        places = self.new.holding(core, change.old) if core.strip() else []
        if len(places) == 1:
            return f"what it changes is in {places[0].path}, line {places[0].line + 1}, in other surroundings"
        gone = self.new.get(change.old) is None
        return "its file has gone, and its lines are in no other" if gone else "its lines are in no file"


def _in_place(path: str, now: Node, hunk: Hunk) -> _Found | None:
    try:
        data, placed = place.apply(now.data, [hunk])
    except place.NoPlace:
        return _Found("already upstream", path) if _is_in(now.data, hunk) else None
    offset = placed[0].offset
    return _Found("moved" if offset else "clean", path, replace(now, data=data), offset)


def _is_in(data: bytes, hunk: Hunk) -> bool:
    try:
        place.apply(data, [hunk.reversed()])
    except place.NoPlace:
        return False
    return True


def _put(there: _Place, hunk: Hunk) -> _Found:
    data = there.node.data
    new = data[: there.at] + hunk.new + data[there.at + len(hunk.old) :]
    return _Found("elsewhere", there.path, replace(there.node, data=new), note=f"line {there.line + 1}")


def _weight(block: bytes) -> int:
    """How many lines have something on them."""
    return sum(bool(line.strip()) for line in block.split(b"\n"))


def _core(hunk: Hunk) -> bytes:
    """What the hunk takes out, with one line of context on each side."""
    lines = hunk.old.splitlines(keepends=True)
    return b"".join(lines[max(hunk.leading - 1, 0) : len(lines) - max(hunk.trailing - 1, 0)])
