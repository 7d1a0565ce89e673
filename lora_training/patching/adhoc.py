"""Patch any folder, without a lock or a series; the folder's `.lora-patch` records the applied patches."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_training.errors import PatchError
from lora_training.patching import names, planning, transaction
from lora_training.patching.diff import parse
from lora_training.patching.model import ABSENT, REGULAR, Image, Node, folders_of, sha256, state_of
from lora_training.patching.names import STATE_FOLDER, shown
from lora_training.patching.planning import stack
from lora_training.patching.planning.stack import LockedPatch, Stack
from lora_training.patching.transaction import Root, Write, fs, tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from lora_training.patching.transaction import Recovered

_RECORD = f"{STATE_FOLDER}/applied.json"
_IGNORE = f"{STATE_FOLDER}/.gitignore"
_ORIGINALS = f"{STATE_FOLDER}/orig"
_FORMAT = 1


@dataclass(frozen=True)
class AdHocResult:
    """The patches that were applied or reverted, the files written, and the hunks found at another line."""

    changed: bool
    patches: tuple[str, ...]
    files: tuple[str, ...] = ()
    moved: tuple[planning.Moved, ...] = ()
    recovered: Recovered | None = None


def apply(root: Path, files: Sequence[Path], strip: int | None) -> AdHocResult:
    """Apply patch files in order: all, or none if one fails. Patches that are applied already are skipped.

    Raises PatchError when a patch does not fit, or when a patched file was changed since.
    """
    wanted = _load(files)
    with _session(root) as recovered:
        record = _read_record(root)
        known = {patch.sha256 for patch in record.patches}
        new = [(name, data) for name, data in wanted if sha256(data) not in known]
        image = tree.snapshot(root, record.paths)
        _check_no_drift(record, image)
        if not new:
            return AdHocResult(changed=False, patches=(), recovered=recovered)
        after = _Applied(root, record, image)
        for name, data in new:
            after.add(name, data, strip)
        writes = after.writes()
        transaction.run(Root(root, root / STATE_FOLDER), "apply", writes)
        patches = tuple(name for name, _ in new)
        return AdHocResult(True, patches, _files(writes), tuple(after.moved), recovered)


def revert(root: Path, files: Sequence[Path]) -> AdHocResult:
    """Revert patches: restore every file byte for byte.

    Raises PatchError when other patches were applied later, or when a patched file was changed since.
    """
    wanted = _load(files)
    with _session(root) as recovered:
        record = _read_record(root)
        there = [item for item in wanted if sha256(item[1]) in {patch.sha256 for patch in record.patches}]
        if not there:
            return AdHocResult(changed=False, patches=(), recovered=recovered)
        step = record.last - len(there)
        _check_on_top(record, step, there)
        _check_no_drift(record, tree.snapshot(root, record.paths))
        writes = _revert_writes(root, record, step)
        transaction.run(Root(root, root / STATE_FOLDER), "revert", writes, _folders_before(record, step))
        return AdHocResult(True, tuple(name for name, _ in there), _files(writes), (), recovered)


def verify(root: Path, files: Sequence[Path]) -> tuple[list[str], Recovered | None]:
    """Return the reasons why these patches do not count as applied; none when they are applied and unchanged.

    Only the record counts: that a patch can be reversed does not prove that it was applied.
    """
    wanted = _load(files)
    with _session(root, alone=False) as recovered:
        record = _read_record(root)
        known = {patch.sha256: patch for patch in record.patches}
        problems = [f"{name} is not in" for name, data in wanted if sha256(data) not in known]
        paths = {path for _, data in wanted if sha256(data) in known for path in known[sha256(data)].files}
        image = tree.snapshot(root, sorted(paths))
        drifted = [path for path in sorted(paths) if state_of(image[path]) != record.state(path, record.last)]
        problems += [f"{shown(path)} has changed since its patch went in" for path in drifted]
    return problems, recovered


def recover(root: Path) -> Recovered | None:
    """Complete an interrupted command on the folder, and do nothing else."""
    with _session(root) as recovered:
        return recovered


@contextmanager
def _session(root: Path, *, alone: bool = True) -> Iterator[Recovered | None]:
    if not root.is_dir():
        raise PatchError(f"{root} is not a folder")
    state = root / STATE_FOLDER
    if os.path.lexists(state) and (state.is_symlink() or not state.is_dir()):
        raise PatchError(f"{state} is in the way and not ours", hint="move it away")
    here = Root(root, state)
    with (transaction.exclusive if alone else transaction.shared)(here) as recovered:
        if not alone:
            yield recovered
            return
        try:
            yield recovered
        finally:
            # removed only when it is empty
            fs.remove_folder(state)


def _load(files: Sequence[Path]) -> list[tuple[str, bytes]]:
    found = [(file.name, _read(file)) for file in files]
    if len({data for _, data in found}) != len(found):
        raise PatchError("the same patch is named twice")
    return found


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as exc:
        raise PatchError(f"cannot read {file}: {exc.strerror}") from exc


def _original(step: int, path: str) -> str:
    """The name of the backup of a file from before patch number `step`, from 1."""
    return f"{_ORIGINALS}/{step}/{path}"


def _originals(record: Stack, above: int) -> list[tuple[int, str]]:
    """The backups from before the patches later than step `above`, in order."""
    numbered = enumerate(record.patches[above:], above + 1)
    return [(n, path) for n, p in numbered for path in p.files if record.state(path, n - 1) != ABSENT]


class _Applied:
    """Applies patches in memory, one after the other."""

    def __init__(self, root: Path, record: Stack, image: Image) -> None:
        self.root = root
        self.record = record
        self.disk: Image = dict(image)
        self.image: Image = dict(image)
        self.locked = list(record.patches)
        self.originals: list[Write] = []
        self.moved: list[planning.Moved] = []

    def add(self, name: str, data: bytes, strip: int | None) -> None:
        patch = parse(name, data, strip=strip, exists=self.exists)
        self.see(patch.paths)
        outcome = planning.apply(patch, self.image)
        self.moved += outcome.moved
        states = {path: state_of(node) for path, node in outcome.written.items()}
        self.locked.append(LockedPatch(name, patch.sha256, states, stack.folders_before(self.disk, outcome.written)))
        self.keep(states)
        self.image = outcome.image

    def keep(self, paths: Iterable[str]) -> None:
        for path in paths:
            before = self.image[path]
            if before is not None and not before.is_folder:
                same_as = path if before is self.disk[path] else None
                self.originals.append(Write(_original(len(self.locked), path), None, before, same_as=same_as))

    def see(self, paths: Sequence[str]) -> None:
        seen = tree.snapshot(self.root, [path for path in paths if path not in self.disk])
        for path, node in seen.items():
            self.disk.setdefault(path, node)
            self.image.setdefault(path, node)

    def exists(self, path: str) -> bool:
        if names.problem(path):
            return False
        self.see([path])
        node = self.image[path]
        return node is not None and not node.is_folder

    def writes(self) -> list[Write]:
        written = sorted({path for patch in self.locked for path in patch.files})
        names.check_links(written, self.image, self.root)
        pristine = {path: self.record.pristine.get(path) or state_of(self.disk[path]) for path in written}
        writes = [Write(path, self.disk[path], self.image[path]) for path in written]
        return [*writes, *self.originals, *_record_writes(self.root, Stack("", pristine, tuple(self.locked)))]


def _check_no_drift(record: Stack, image: Image) -> None:
    for path in record.paths:
        found = state_of(image[path])
        if found != record.state(path, record.last):
            raise PatchError(
                f"{shown(path)} has changed since a patch went in: it is {found}, "
                f"expected {record.state(path, record.last)}",
                hint=f"put it back as it was after patching and run this again; originals are in {_ORIGINALS}",
            )


def _check_on_top(record: Stack, step: int, there: Sequence[tuple[str, bytes]]) -> None:
    top = {patch.sha256: patch.name for patch in record.patches[step:]}
    above = [name for digest, name in top.items() if digest not in {sha256(data) for _, data in there}]
    if above:
        raise PatchError(f"{', '.join(above)} went in later", hint="name those too, or revert them first")


def _revert_writes(root: Path, record: Stack, step: int) -> list[Write]:
    originals = _originals(record, step)
    touched = sorted({path for patch in record.patches[step:] for path in patch.files})
    image = tree.snapshot(root, [*touched, *(_original(*item) for item in originals)])
    # a file that several patches changed comes back as it was before the first of them
    first = {path: _original(number, path) for number, path in reversed(originals)}
    writes = [_restored(record, step, path, first, image) for path in touched]
    writes += [Write(_original(*item), image[_original(*item)], None) for item in originals]
    kept = {path for patch in record.patches[:step] for path in patch.files}
    left = Stack("", {path: record.pristine[path] for path in record.paths if path in kept}, record.patches[:step])
    return [*writes, *_record_writes(root, left)]


def _folders_before(record: Stack, step: int) -> stack.Folders | None:
    """The folders as they were at `step`, without those for backups; None when an older lora applied a patch."""
    found: stack.Folders = dict.fromkeys(folders_of(_original(*item) for item in _originals(record, step)))
    for patch in reversed(record.patches[step:]):
        if patch.folders is None:
            return None
        found |= patch.folders
    return found | {STATE_FOLDER: None}


def _restored(record: Stack, step: int, path: str, originals: Mapping[str, str], image: Image) -> Write:
    wanted = record.state(path, step)
    if wanted == ABSENT:
        return Write(path, image[path], None)
    original = originals[path]
    if state_of(image[original]) != wanted:
        raise PatchError(f"{shown(original)}, the original of {shown(path)}, is gone or was changed")
    return Write(path, image[path], image[original], same_as=original)


def _record_writes(root: Path, record: Stack) -> list[Write]:
    content = Node(REGULAR, _render(record)) if record.patches else None
    ignore = Node(REGULAR, b"*\n") if record.patches else None
    return [Write(_RECORD, tree.read(root, _RECORD), content), Write(_IGNORE, tree.read(root, _IGNORE), ignore)]


def _render(record: Stack) -> bytes:
    # an older lora recorded no folders
    patches = [{key: value for key, value in vars(patch).items() if value is not None} for patch in record.patches]
    return json.dumps({"format": _FORMAT, "pristine": record.pristine, "patches": patches}, indent=1).encode()


def _read_patch(content: Any) -> LockedPatch:
    known = stack.check_folders(content["folders"]) if "folders" in content else None
    return LockedPatch(content["name"], content["sha256"], content["files"], known)


def _read_record(root: Path) -> Stack:
    node = tree.read(root, _RECORD)
    if node is None:
        return Stack("", {}, ())
    try:
        content = json.loads(node.data)
        patches = tuple(_read_patch(patch) for patch in content["patches"])
        return stack.check(Stack("", content["pristine"], patches))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as exc:
        raise PatchError(
            f"{root / _RECORD} is damaged: {exc}", hint=f"the originals are in {root / _ORIGINALS}"
        ) from exc


def _files(writes: Sequence[Write]) -> tuple[str, ...]:
    return tuple(write.path for write in writes if not write.path.startswith(STATE_FOLDER + "/"))
