"""Patch any folder, without a lock or a series; the folder's `.lora-patch` records the applied patches."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lora_training.errors import PatchError
from lora_training.patching import lockfile, names, planning, transaction
from lora_training.patching.diff import parse
from lora_training.patching.lockfile import Folders, LockedPatch, Stack
from lora_training.patching.model import ABSENT, Image, folders_of, sha256, state_of
from lora_training.patching.names import STATE_FOLDER, shown
from lora_training.patching.transaction import Recovered, Root, fs
from lora_training.patching.transaction.journal import Write

_RECORD = f"{STATE_FOLDER}/applied.json"
_IGNORE = f"{STATE_FOLDER}/.gitignore"
_ORIGINALS = f"{STATE_FOLDER}/orig"
_FORMAT = 1


@dataclass(frozen=True)
class AdHocResult:
    """The patches that were applied or reverted, the files written, and the hunks found at another line."""

    patches: tuple[str, ...] = ()
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
        _check_strip(record, wanted, strip)
        applied = {patch.sha256 for patch in record.patches}
        new = {digest: item for digest, item in wanted.items() if digest not in applied}
        image = fs.snapshot(root, record.pristine)
        _check_no_drift(record, image)
        if not new:
            return AdHocResult(recovered=recovered)
        after = _Applied(root, record, image)
        for name, data in new.values():
            after.add(name, data, strip)
        writes = after.writes()
        transaction.run(Root(root, root / STATE_FOLDER), "apply", writes)
        return _result(new.values(), writes, recovered, after.moved)


def revert(root: Path, files: Sequence[Path], strip: int | None = None) -> AdHocResult:
    """Revert patches: restore every file byte for byte.

    Raises PatchError when other patches were applied later, when a patched file was changed since, or when a patch
    was applied with another `strip`.
    """
    wanted = _load(files)
    with _session(root) as recovered:
        record = _read_record(root)
        _check_strip(record, wanted, strip)
        applied = {patch.sha256 for patch in record.patches}
        reverted = [item for digest, item in wanted.items() if digest in applied]
        if not reverted:
            return AdHocResult(recovered=recovered)
        step = record.last - len(reverted)
        later = [patch.name for patch in record.patches[step:] if patch.sha256 not in wanted]
        if later:
            raise PatchError(f"{', '.join(later)} went in later", hint="name those too, or revert them first")
        _check_no_drift(record, fs.snapshot(root, record.pristine))
        writes = _revert_writes(root, record, step)
        transaction.run(Root(root, root / STATE_FOLDER), "revert", writes, _folders_before(record, step))
        return _result(reverted, writes, recovered)


def verify(root: Path, files: Sequence[Path], strip: int | None = None) -> tuple[list[str], Recovered | None]:
    """Return the reasons why these patches do not count as applied; none when they are applied and unchanged.

    Only the record counts: that a patch can be reversed does not prove that it was applied.
    """
    wanted = _load(files)
    with _session(root, alone=False) as recovered:
        record = _read_record(root)
        known = {patch.sha256: patch for patch in record.patches}
        problems = [f"{name} is not in" for digest, (name, _) in wanted.items() if digest not in known]
        paths = sorted({path for digest in wanted if digest in known for path in known[digest].files})
        image = fs.snapshot(root, paths)
        drifted = [path for path in paths if state_of(image[path]) != record.state(path, record.last)]
        problems += [f"{shown(path)} has changed since its patch went in" for path in drifted]
        try:
            _check_strip(record, wanted, strip)
        except PatchError as exc:
            problems.append(exc.message)
    return problems, recovered


def recover(root: Path) -> Recovered | None:
    """Complete an interrupted command on the folder, and do nothing else."""
    with _session(root) as recovered:
        return recovered


@contextmanager
def _session(root: Path, *, alone: bool = True) -> Iterator[Recovered | None]:
    if not root.is_dir():
        raise PatchError(f"{root} is not a folder", hint="--tree is the folder to patch")
    state = root / STATE_FOLDER
    if os.path.lexists(state) and (state.is_symlink() or not state.is_dir()):
        raise PatchError(f"{state} is not a folder, but the record of patches goes there", hint="move it away")
    with (transaction.exclusive if alone else transaction.shared)(Root(root, state)) as recovered:
        try:
            yield recovered
        finally:
            if alone:
                # removed only when it is empty
                fs.remove_folder(state)


def _load(files: Sequence[Path]) -> dict[str, tuple[str, bytes]]:
    """Return the name and content of each patch file by its sha256."""
    found = {}
    for file in files:
        try:
            data = file.read_bytes()
        except OSError as exc:
            raise PatchError(f"cannot read {file}: {exc.strerror}", hint="nothing was written") from exc
        found[sha256(data)] = file.name, data
    if len(found) != len(files):
        raise PatchError("the same patch is named twice", hint="name each patch once")
    return found


def _check_strip(record: Stack, wanted: Mapping[str, tuple[str, bytes]], strip: int | None) -> None:
    """Raise PatchError for an applied patch that changes other files with that `strip`."""
    for patch in record.patches if strip is not None else ():
        if patch.sha256 in wanted:
            changes = parse(*wanted[patch.sha256], strip=strip, exists=patch.files.__contains__).changes
            if not {change.new for change in changes} <= patch.files.keys():
                what = f"{patch.name} was applied with another --strip than {strip}"
                raise PatchError(what, hint="leave --strip out: the folder's record has the names of the files")


def _result(
    patches: Iterable[tuple[str, bytes]],
    writes: Sequence[Write],
    recovered: Recovered | None,
    moved: Sequence[planning.Moved] = (),
) -> AdHocResult:
    files = tuple(each.path for each in writes if each.is_change and not each.path.startswith(f"{STATE_FOLDER}/"))
    return AdHocResult(tuple(name for name, _ in patches), files, tuple(moved), recovered)


def _original(step: int, path: str) -> str:
    """Return the name of the backup of a file from before patch number `step`, from 1."""
    return f"{_ORIGINALS}/{step}/{path}"


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
        folders = lockfile.folders_before(self.disk, outcome.written)
        self.locked.append(LockedPatch(name, patch.sha256, states, folders))
        for path in states:
            before = self.image[path]
            if before is not None and not before.is_folder:
                same_as = path if before is self.disk[path] else None
                self.originals.append(Write(_original(len(self.locked), path), None, before, same_as=same_as))
        self.image = outcome.image

    def see(self, paths: Sequence[str]) -> None:
        seen = fs.snapshot(self.root, [path for path in paths if path not in self.disk])
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
    for path in record.pristine:
        found, expected = state_of(image[path]), record.state(path, record.last)
        if found != expected:
            raise PatchError(
                f"{shown(path)} has changed since a patch went in: it is {found}, expected {expected}",
                hint=f"put it back as it was after patching and run this again; originals are in {_ORIGINALS}",
            )


def _originals(record: Stack, above: int) -> dict[str, str]:
    """Return the file of each backup from before the patches later than step `above`, in order."""
    numbered = enumerate(record.patches[above:], above + 1)
    return {_original(n, path): path for n, p in numbered for path in p.files if record.state(path, n - 1) != ABSENT}


def _revert_writes(root: Path, record: Stack, step: int) -> list[Write]:
    originals = _originals(record, step)
    touched = sorted({path for patch in record.patches[step:] for path in patch.files})
    image = fs.snapshot(root, [*touched, *originals])
    # a file that several patches changed comes back as it was before the first of them
    first = {path: original for original, path in reversed(originals.items())}
    writes = [_restored(record.state(path, step), path, first.get(path, ""), image) for path in touched]
    writes += [Write(original, image[original], None) for original in originals]
    kept = {path for patch in record.patches[:step] for path in patch.files}
    left = Stack("", {path: record.pristine[path] for path in record.pristine if path in kept}, record.patches[:step])
    return [*writes, *_record_writes(root, left)]


def _restored(wanted: str, path: str, original: str, image: Image) -> Write:
    if wanted == ABSENT:
        return Write(path, image[path], None)
    if state_of(image[original]) != wanted:
        what = f"{shown(original)}, the original of {shown(path)}, is gone or was changed"
        raise PatchError(what, hint="nothing was written; bring it back, from a backup for example")
    return Write(path, image[path], image[original], same_as=original)


def _folders_before(record: Stack, step: int) -> Folders | None:
    """Return the folders as they were at `step`, without those for backups; None if an older lora applied a patch."""
    found: Folders = dict.fromkeys(folders_of(_originals(record, step)))
    for patch in reversed(record.patches[step:]):
        if patch.folders is None:
            return None
        found |= patch.folders
    return found | {STATE_FOLDER: None}


def _record_writes(root: Path, record: Stack) -> list[Write]:
    # an older lora recorded no folders
    patches = [{key: value for key, value in vars(patch).items() if value is not None} for patch in record.patches]
    text = json.dumps({"format": _FORMAT, "pristine": record.pristine, "patches": patches}, indent=1)
    contents = {_RECORD: text.encode(), _IGNORE: b"*\n"}
    place = Root(root, root / STATE_FOLDER)
    return [transaction.file_write(place, root / path, data if patches else None) for path, data in contents.items()]


def _read_record(root: Path) -> Stack:
    node = fs.read(root, _RECORD)
    if node is None:
        return Stack("", {}, ())
    try:
        content = json.loads(node.data)
        patches = []
        for patch in content["patches"]:
            folders = lockfile.check_folders(patch["folders"]) if "folders" in patch else None
            patches.append(LockedPatch(patch["name"], patch["sha256"], patch["files"], folders))
        return lockfile.check(Stack("", content["pristine"], tuple(patches)))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as exc:
        raise PatchError(
            f"{root / _RECORD} is damaged: {exc}", hint=f"the originals are in {root / _ORIGINALS}"
        ) from exc
