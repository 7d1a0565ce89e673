"""Rebase a series onto another version of its upstream, hunk by hunk, in memory.

A hunk is applied where its exact lines are found, where git merges it without a conflict, or, if its file does not have
them any more, in the only other file that has them. Every other hunk is a conflict.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from lora_training import git_process, proc
from lora_training.errors import PatchError
from lora_training.patching import planning
from lora_training.patching.model import Change, Hunk, Image, Node, Patch, state_of
from lora_training.patching.planning import place

Fate = Literal["clean", "moved", "merged", "already upstream", "elsewhere", "conflict"]

# A hunk is searched for in other files only if it has at least this many lines that are not blank.
_ENOUGH = 3
# `git merge-file` exits with the number of conflicts, at most 127; higher codes are errors.
_CONFLICTS = 127


@dataclass(frozen=True)
class HunkReport:
    """The result for one hunk, or for a change without hunks, `line` then being the section's.

    `path` is the file in the patch; `place` is the file that it was applied to, `offset` lines away.
    """

    patch: str
    line: int
    path: str
    fate: Fate
    place: str
    offset: int = 0
    note: str = ""


@dataclass(frozen=True)
class Rebased:
    """A rebased patch: the files before and after it in the new version. If they are equal, it is not needed."""

    name: str
    before: Image
    after: Image
    hunks: tuple[HunkReport, ...]

    @property
    def is_needed(self) -> bool:
        """Whether the patch still changes anything."""
        return any(state_of(self.before.get(path)) != state_of(node) for path, node in self.after.items())


class NewTree(dict[str, "Node | None"]):
    """The files of the new version, read when first used, with the changes of the series so far.

    `paths` are the names of all files.
    """

    def __init__(self, paths: Iterable[str], read: Callable[[str], Node | None]) -> None:
        super().__init__()
        self.paths = tuple(paths)
        self._read = read

    def __missing__(self, path: str) -> Node | None:
        self[path] = self._read(path)
        return self[path]

    def holding(self, block: bytes, like: str) -> list[_Place]:
        """Every place of these lines in other files with the same suffix as `like`."""
        suffix = like[like.rfind(".") :] if "." in like else ""
        found = []
        for path in self.paths:
            node = self[path] if path.endswith(suffix) and path != like else None
            if node is not None and not node.is_folder:
                found += [_Place(path, node, at, line) for at, line in place.occurrences(node.data, block)]
        return found


class _Place(NamedTuple):
    path: str
    node: Node
    at: int
    line: int


class _Found(NamedTuple):
    """The result for a hunk: `node` is the new content of `path`, None to leave it as it is."""

    fate: Fate
    path: str
    node: Node | None = None
    offset: int = 0
    note: str = ""


def rebase(patches: Sequence[Patch], old: Image, new: NewTree) -> list[Rebased]:
    """Rebase the patches of a series in order. `old` has the pristine files of the old version."""
    images = pairwise(planning.steps(patches, old))
    return [_Rebase(patch, *sides, new).run() for patch, sides in zip(patches, images, strict=True)]


class _Rebase:
    """Rebases one patch. `old` and `old_after` are the files before and after it in the old version."""

    def __init__(self, patch: Patch, old: Image, old_after: Image, new: NewTree) -> None:
        self.patch, self.old, self.old_after, self.new = patch, old, old_after, new
        self.before: Image = {}
        self.reports: list[HunkReport] = []

    def run(self) -> Rebased:
        for change in self.patch.changes:
            if change.action == "modify" and change.hunks:
                self.in_hunks(change)
            else:
                self.as_a_whole(change)
        after = {path: self.new[path] for path in self.before}
        return Rebased(self.patch.name, self.before, after, tuple(self.reports))

    def write(self, path: str, node: Node | None) -> None:
        self.before.setdefault(path, self.new[path])
        self.new[path] = node

    def report(self, change: Change, line: int, found: _Found) -> None:
        report = HunkReport(self.patch.name, line, change.old, found.fate, found.path, found.offset, found.note)
        self.reports.append(report)

    def as_a_whole(self, change: Change) -> None:
        """Rebase a change that has no hunks or is more than a modification: it applies as it is, or conflicts."""
        now: Image = {path: self.new[path] for path in change.paths}
        found = _Found("clean", change.new)
        if all(state_of(now[path]) == state_of(self.old_after.get(path)) for path in change.paths):
            found = _Found("already upstream", change.new)
        else:
            try:
                written = planning.apply(replace(self.patch, changes=(change,)), now).written
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
        now = self.new[change.old]
        found = None
        if now is not None and not now.is_folder and not now.is_link:
            found = _in_place(change.old, now, hunk) or self.merged(change, now, hunk)
        return found or self.elsewhere(change, hunk)

    def merged(self, change: Change, now: Node, hunk: Hunk) -> _Found | None:
        base = self.old[change.old]
        if base is None:  # pragma: no cover - the patch went into the old version
            return None
        original = next(h for h in change.hunks if h.line == hunk.line)
        data = _merge(now.data, base.data, place.apply(base.data, [original])[0])
        if data is None:
            return None
        if data == now.data:
            return _Found("already upstream", change.old)
        return _Found("merged", change.old, replace(now, data=data))

    def elsewhere(self, change: Change, hunk: Hunk) -> _Found:
        """Apply the hunk to the only other file with its exact lines; else report a conflict, with a likely place."""
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
        # the lines that the hunk removes, with one line of context on each side
        lines = hunk.old.splitlines(keepends=True)
        core = b"".join(lines[max(hunk.leading - 1, 0) : len(lines) - max(hunk.trailing - 1, 0)])
        places = self.new.holding(core, change.old) if core.strip() else []
        if len(places) == 1:
            return f"what it changes is in {places[0].path}, line {places[0].line + 1}, in other surroundings"
        gone = self.new[change.old] is None
        return "its file has gone, and its lines are in no other" if gone else "its lines are in no file"


def _merge(ours: bytes, base: bytes, theirs: bytes) -> bytes | None:
    """Merge three versions of a file; None when they conflict, or when one of them is binary."""
    if any(b"\0" in side for side in (ours, base, theirs)):
        return None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, data in (("ours", ours), ("base", base), ("theirs", theirs)):
            (folder / name).write_bytes(data)
        try:
            merged = git_process.run(folder, "merge-file", "-p", "-q", "ours", "base", "theirs")
        except proc.ProcError as exc:
            if exc.completed.returncode > _CONFLICTS:
                raise
            return None
    return merged.encode("utf-8", "surrogateescape")


def _in_place(path: str, now: Node, hunk: Hunk) -> _Found | None:
    try:
        data, (offset,) = place.apply(now.data, [hunk])
    except place.NoPlace:
        try:
            place.apply(now.data, [hunk.reversed()])
        except place.NoPlace:
            return None
        return _Found("already upstream", path)
    return _Found("moved" if offset else "clean", path, replace(now, data=data), offset)


def _put(found: _Place, hunk: Hunk) -> _Found:
    data = found.node.data
    new = data[: found.at] + hunk.new + data[found.at + len(hunk.old) :]
    return _Found("elsewhere", found.path, replace(found.node, data=new), note=f"line {found.line + 1}")


def _weight(block: bytes) -> int:
    """The number of lines that are not blank."""
    return sum(bool(line.strip()) for line in block.split(b"\n"))
