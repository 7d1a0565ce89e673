"""Move an upstream to another commit: rebase its series in memory, write it, and switch the checkout.

Git's index is changed after the transaction. A note tells the next command, if this one is killed, that the index is
still to be changed, and one file of the transaction tells whether the transaction was completed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lora_training.errors import PatchError
from lora_training.patching import authoring, docs, lockfile, relock, series, transaction, tree_state
from lora_training.patching.model import state_of
from lora_training.patching.planning import rebase
from lora_training.patching.planning.rebase import NewTree, Rebased
from lora_training.patching.series import SeriesPatch, Target
from lora_training.patching.transaction import fs
from lora_training.patching.transaction.journal import Write
from lora_training.workspace import Workspace


@dataclass(frozen=True)
class Rehearsed:
    """A rebased series: the old patches and the result for each."""

    items: tuple[SeriesPatch, ...]
    rebased: tuple[Rebased, ...]

    @property
    def conflicts(self) -> tuple[rebase.HunkReport, ...]:
        """The hunks that do not fit."""
        return tuple(hunk for patch in self.rebased for hunk in patch.hunks if hunk.fate == "conflict")


def rehearse(workspace: Workspace, target: Target, new: Path, paths: Sequence[str]) -> Rehearsed:
    """Rebase the series of `target`, which is at its pin, onto the files `paths` of the tree `new`.

    Writes nothing. Raises PatchError when the series does not fit the tree that it is for.
    """
    series.check_at_pin(target)
    items = series.read(target.patches)
    touched = list(dict.fromkeys(path for item in items for path in item.patch.paths))
    old = relock.pristine(target, lockfile.read(workspace.patches).get(target.name), touched)
    rebased = rebase.rebase([item.patch for item in items], old, NewTree(paths, lambda path: fs.read(new, path)))
    return Rehearsed(items, tuple(rebased))


def write(target: Target, rehearsed: Rehearsed, version: str) -> tuple[str, ...]:
    """Write the rebased series; return the names of the patches that are no longer needed, which are deleted.

    Raises PatchError when there are conflicts; nothing is written then.
    """
    check(rehearsed)
    pairs = list(zip(rehearsed.items, rehearsed.rebased, strict=True))
    for item, rebased in pairs:
        if rebased.is_needed:
            fields = {**item.fields, "Last-Update": authoring.today(), "Upstream-Version": version}
            data = series.render_header(fields) + authoring.diff(rebased.before, rebased.after, rebased.before)
            fs.replace_file(target.patches / item.name, data)
    dropped = tuple(item.name for item, rebased in pairs if not rebased.is_needed)
    if dropped:
        listed = [name for name in series.names(target.patches) if name not in dropped]
        fs.replace_file(target.patches / series.SERIES, "".join(f"{name}\n" for name in listed).encode())
        for name in dropped:
            fs.remove(target.patches / name)
    return dropped


def check(rehearsed: Rehearsed) -> None:
    """Raise PatchError when a hunk does not fit."""
    if rehearsed.conflicts:
        first = rehearsed.conflicts[0]
        raise PatchError(
            f"hunks without a place there: {len(rehearsed.conflicts)}; "
            f"the first is {first.patch}, line {first.line}: {first.note}",
            hint="nothing was changed; rewrite those patches for the new version, or take them out of the series",
        )


INDEX = "bump.index"


@dataclass(frozen=True)
class Note:
    """A started switch to `commit`, whose transaction is complete once the file `path` has `state`."""

    upstream: str
    commit: str
    path: str
    state: str


def paths_of(workspace: Workspace, target: Target) -> list[str]:
    """Return the files of a target that patches touch, their copies, and `patches/`, relative to the checkout."""
    stack = tree_state.locked(target, lockfile.read(workspace.patches))
    prefix = target.root.relative_to(workspace.root).as_posix()
    touched = [f"{prefix}/{path}{suffix}" for path in stack.pristine for suffix in ("", tree_state.COPY)]
    patches = (
        path.relative_to(workspace.root).as_posix() for path in workspace.patches.rglob("*") if not path.is_dir()
    )
    return [*touched, *sorted(patches), docs.DOCUMENT]


def plan(old: Path, new: Path, paths: Sequence[str]) -> list[Write]:
    """Return the writes that make those files in `old` the same as in `new`."""
    paths = list(dict.fromkeys(paths))
    before, after = fs.snapshot(old, paths), fs.snapshot(new, paths)
    wanted = {path: None if node is None or node.is_folder else node for path, node in after.items()}
    writes = [Write(path, before[path], wanted[path]) for path in paths]
    return [write for write in writes if state_of(write.before) != state_of(after[write.path])]


def make(
    workspace: Workspace,
    target: Target,
    to: tuple[str, Path],
    planned: Callable[[], list[Write]],
    settle: Callable[[Note], None],
) -> None:
    """Make the `planned` writes in one transaction, then call `settle`; `to` is the new commit and git's index for it.

    Raises PatchError when the tree has local edits, UpstreamError when it is not at its pin; nothing is changed then.
    """
    here = transaction.root_of(workspace)
    with transaction.exclusive(here):
        check_unedited(workspace, target)
        moves = planned()
        if moves:
            path, state = moves[0].path, state_of(moves[0].after)
        else:
            path, state = docs.DOCUMENT, state_of(fs.read(here.path, docs.DOCUMENT))
        note = Note(target.name, to[0], path, state)
        here.state.mkdir(parents=True, exist_ok=True)
        fs.replace_file(here.state / INDEX, to[1].read_bytes())
        fs.replace_file(workspace.begun_bump, json.dumps(asdict(note)).encode())
        transaction.run(here, "bump", moves)
        settle(note)
        fs.remove(workspace.begun_bump)


def check_unedited(workspace: Workspace, target: Target) -> None:
    """Raise PatchError when the tree of a target has local edits, UpstreamError when it is not at its pin."""
    series.check_at_pin(target)
    item = tree_state.read(target, tree_state.locked(target, lockfile.read(workspace.patches)))
    tree_state.refuse_edits(item, tree_state.local_edits(item))


def recover(workspace: Workspace, settle: Callable[[Note], None]) -> str | None:
    """Complete an interrupted switch: return "finished" or "undone", or None when there was none."""
    here = transaction.root_of(workspace)
    with transaction.exclusive(here):
        try:
            note = Note(**json.loads((workspace.begun_bump).read_bytes()))
        except FileNotFoundError:
            # another process has completed it meanwhile
            return None
        except (ValueError, TypeError) as exc:
            raise PatchError(f"cannot read {workspace.begun_bump}: {exc}", hint="was it edited? take it away") from exc
        is_complete = state_of(fs.snapshot(here.path, [note.path])[note.path]) == note.state
        if is_complete:
            settle(note)
        fs.remove(workspace.begun_bump)
    return "finished" if is_complete else "undone"
