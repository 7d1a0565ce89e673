"""Apply patches to files in memory. Nothing here reads or writes the disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from lora_training.errors import PatchError
from lora_training.patching import names
from lora_training.patching.diff import git
from lora_training.patching.model import REGULAR, Action, Binary, Change, Image, Node, Patch, folders_of, parents
from lora_training.patching.names import shown
from lora_training.patching.planning import place

_UNTOUCHED = "nothing was written"
_KIND = 0o170000
_SHA1 = 40


@dataclass(frozen=True)
class Moved:
    """A hunk that was applied `offset` lines from the line that it states."""

    patch: str
    path: str
    line: int
    offset: int


@dataclass
class Outcome:
    """A tree after a patch: the whole `image`, the `written` files, and the `moved` hunks."""

    image: Image
    written: Image = field(default_factory=dict)
    moved: list[Moved] = field(default_factory=list)


def apply(patch: Patch, image: Mapping[str, Node | None]) -> Outcome:
    """Apply `patch` to a tree. Raises PatchError for the first change that does not fit exactly."""
    return _Run(patch, patch.changes, image).run()


def steps(patches: Iterable[Patch], base: Image) -> list[Image]:
    """Return the tree at every step of a series, `base` first."""
    return list(accumulate(patches, lambda image, patch: apply(patch, image).image, initial=base))


def unapply(patch: Patch, image: Mapping[str, Node | None]) -> Outcome:
    """Reverse `patch` on a tree. Raises PatchError where that is not possible.

    The caller compares the result with the states in the lock: a patch can fit backwards by accident.
    """
    copies: Image = {change.new: None for change in patch.changes if change.action == "copy"}
    changes = [reverse(change) for change in reversed(patch.changes) if change.action != "copy"]
    outcome = _Run(patch, changes, dict(image) | copies).run()
    return replace(outcome, written=copies | outcome.written)


def reverse(change: Change) -> Change:
    """The change that undoes this one, which must not be a copy."""
    actions: dict[Action, Action] = {"create": "delete", "delete": "create"}
    mode_back = change.old_mode if change.new_mode or change.action == "delete" else None
    return replace(
        change,
        action=actions.get(change.action, change.action),
        old=change.new,
        new=change.old,
        hunks=tuple(hunk.reversed() for hunk in change.hunks),
        old_mode=change.new_mode or change.old_mode,
        new_mode=mode_back,
        old_id=change.new_id,
        new_id=change.old_id,
        forward=change.backward,
        backward=change.forward,
    )


class _Run:
    """Applies one patch. `before` is the tree before it; `removed` and `made` are its changes so far."""

    def __init__(self, patch: Patch, changes: Sequence[Change], before: Mapping[str, Node | None]) -> None:
        self.patch, self.changes, self.before = patch, changes, before
        self.leaving = {change.old for change in changes if change.action in {"rename", "delete"}}
        self.removed: Image = {}
        self.made: Image = {}
        self.occupied: set[str] = set()
        self.moved: list[Moved] = []

    def run(self) -> Outcome:
        for change in self.changes:
            for path in change.paths:
                self.check_folders(change, path, self.before)
            self.step(change)
        # removals come first, so that two files can swap their names in one patch
        written = self.removed | self.made
        image = dict(self.before) | written
        self.occupied = folders_of(path for path, node in image.items() if node and not node.is_folder)
        for change in self.changes:
            if self.made.get(change.new) is not None:
                self.check_room(change, image)
        return Outcome(image, written, self.moved)

    def step(self, change: Change) -> None:
        old = None if change.action == "create" else self.source(change)
        data = self.content(change, b"" if old is None else old.data)
        if change.action == "delete":
            self.delete(change, data)
            return
        if change.action == "rename":
            self.removed[change.old] = None
        if change.action != "modify":
            self.check_free(change)
        mode = change.new_mode or (REGULAR if old is None else old.mode)
        self.made[change.new] = Node(mode, data, None if old is None else old.permissions)

    def source(self, change: Change) -> Node:
        """The file that the change reads; a modification sees the earlier changes of the same patch."""
        path = change.old
        again = change.action in {"modify", "delete"} and (path in self.made or path in self.removed)
        node = self.made.get(path) if again else self.before.get(path)
        if node is None:
            raise self.refuse(change, "the file is not there")
        if node.is_folder:
            raise self.refuse(change, "it is a folder")
        if node.is_link and change.old_mode is None and change.hunks:
            raise self.refuse(change, "it is a symbolic link, and no patch is written through one")
        if change.old_mode is not None and (change.old_mode ^ node.mode) & _KIND:
            raise self.refuse(change, f"it has mode {node.mode:06o} where the patch expects {change.old_mode:06o}")
        return node

    def content(self, change: Change, old: bytes) -> bytes:
        if change.forward:
            return self.binary_content(change, change.forward, old)
        if change.backward:
            raise self.refuse(change, "this binary patch goes one way only")
        try:
            data, offsets = place.apply(old, change.hunks)
        except place.NoPlace as exc:
            what = f"{self.patch.name}, line {exc.hunk.line}: this hunk of {shown(change.old)} {exc.reason}"
            raise PatchError(what, hint=f"{exc.hint}; {_UNTOUCHED}") from exc
        found = zip(change.hunks, offsets, strict=True)
        self.moved += [Moved(self.patch.name, change.new, hunk.line, offset) for hunk, offset in found if offset]
        return data

    def binary_content(self, change: Change, forward: Binary, old: bytes) -> bytes:
        if min(len(change.old_id), len(change.new_id)) < _SHA1:
            raise self.refuse(change, "a binary patch without whole blob ids; make it with `git diff --binary`")
        if change.action != "create" and git.blob_id(old, change.old_id) != change.old_id:
            raise self.refuse(change, "the binary patch is for other content")
        try:
            data = git.binary_content(forward, old)
        except ValueError as exc:
            raise self.refuse(change, str(exc)) from exc
        if change.action != "delete" and git.blob_id(data, change.new_id) != change.new_id:
            raise self.refuse(change, "the binary patch does not make the content it promises")
        return data

    def delete(self, change: Change, left: bytes) -> None:
        if left:
            raise self.refuse(change, "the patch deletes it, but it holds more than the patch takes out")
        self.removed[change.old] = None
        self.made.pop(change.old, None)

    def check_free(self, change: Change) -> None:
        taken = None if change.new in self.leaving else self.before.get(change.new)
        taken = self.made.get(change.new) or taken
        if taken is not None and not taken.is_folder:
            raise self.refuse(change, f"the patch makes {shown(change.new)}, but that is there already")

    def check_folders(self, change: Change, path: str, image: Mapping[str, Node | None]) -> None:
        for parent in parents(path):
            node = image.get(parent)
            if node is not None and node.is_link and not (parent in self.leaving and change.action == "create"):
                raise self.refuse(change, f"{shown(path)} would go through the symbolic link {shown(parent)}")

    def check_room(self, change: Change, image: Image) -> None:
        """Raise PatchError for a new file below a file, or in the place of a folder that is not emptied."""
        path = change.new
        self.check_folders(change, path, image)
        for parent in parents(path):
            node = image.get(parent)
            if node is not None and not node.is_folder:
                raise self.refuse(change, f"{shown(parent)} is a file and no folder")
        old = self.before.get(path)
        is_seen = old is None or all(f"{path}/{child}" in image for child in old.children)
        if path in self.occupied or not is_seen:
            raise self.refuse(change, f"{shown(path)} is a folder with files in it")
        node = image[path]
        what = names.link_problem(path, node) if node is not None and node.is_link else None
        if what:
            raise self.refuse(change, f"the symbolic link {shown(path)} {what}")

    def refuse(self, change: Change, what: str) -> PatchError:
        return PatchError(f"{self.patch.name}, line {change.line}: {shown(change.old)}: {what}", hint=_UNTOUCHED)
