"""The move of a checkout to another commit of an upstream: one transaction over its tree and our own files.

What git is to say of it comes afterwards. A note tells whoever comes after a kill that it is to be said, and a file of
the transaction whether it is.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from lora_training.errors import PatchError
from lora_training.patching import edits, fs, lockfile, series, site, standing, transaction, tree
from lora_training.patching.edit import Edit
from lora_training.patching.model import state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lora_training.patching.series import Target
    from lora_training.workspace import Workspace

_DOCUMENT = "PATCHES.md"
INDEX = "bump.index"


@dataclass(frozen=True)
class Note:
    """A move that was begun: once the file `path` has `state`, the upstream's files are those of `commit`."""

    upstream: str
    commit: str
    path: str
    state: str


def paths_of(workspace: Workspace, target: Target) -> list[str]:
    """What the patches of a target touch and keep, and our own files about all patches, relative to the checkout."""
    stack_ = standing.locked(target, lockfile.read(workspace.patches))
    prefix = target.root.relative_to(workspace.root).as_posix()
    touched = [f"{prefix}/{path}{suffix}" for path in stack_.paths for suffix in ("", standing.COPY)]
    ours = (path.relative_to(workspace.root).as_posix() for path in workspace.patches.rglob("*") if not path.is_dir())
    return [*touched, *sorted(ours), _DOCUMENT]


def plan(here: Path, there: Path, paths: Sequence[str]) -> list[Edit]:
    """What makes those files in `here` the same as in `there`."""
    paths = list(dict.fromkeys(paths))
    before, after = tree.snapshot(here, paths), tree.snapshot(there, paths)
    wanted = {path: None if node is None or node.is_folder else node for path, node in after.items()}
    return [Edit(path, before[path], wanted[path]) for path in paths if state_of(before[path]) != state_of(after[path])]


def make(
    workspace: Workspace,
    target: Target,
    to: tuple[str, Path],
    planned: Callable[[], list[Edit]],
    settle: Callable[[Note], None],
) -> None:
    """Make the `planned` edits all at once, then `settle`: they lead `to` a commit, with git's index of it.

    Raises PatchError when the tree has edits of its own, UpstreamError when it is not at its pin; nothing is done then.
    """
    here = site.of_workspace(workspace)
    with site.alone(here):
        check_unedited(workspace, target)
        moves = planned()
        note = Note(target.name, to[0], *_decisive(here.root, moves))
        here.state.mkdir(parents=True, exist_ok=True)
        fs.replace_file(here.state / INDEX, to[1].read_bytes())
        fs.replace_file(workspace.begun_bump, json.dumps(asdict(note)).encode())
        transaction.run(here.root, here.state, "bump", moves)
        settle(note)
        fs.remove(workspace.begun_bump)


def _decisive(root: Path, moves: Sequence[Edit]) -> tuple[str, str]:
    """A file, and the state that it has once all is made."""
    if moves:
        return moves[0].path, state_of(moves[0].after)
    return _DOCUMENT, state_of(tree.read(root, _DOCUMENT))


def check_unedited(workspace: Workspace, target: Target) -> None:
    """Raise PatchError when the tree of a target has edits, UpstreamError when it is not at its pin."""
    series.check_at_pin(target)
    item = standing.stand(target, standing.locked(target, lockfile.read(workspace.patches)))
    edits.refuse(item, edits.find(item))


def recover(workspace: Workspace, settle: Callable[[Note], None]) -> str | None:
    """Bring an interrupted move to its end: the word for what became of it, or None when there was none after all."""
    here = site.of_workspace(workspace)
    with site.alone(here):
        try:
            note = Note(**json.loads((workspace.begun_bump).read_bytes()))
        except FileNotFoundError:
            # whoever made the move has come to its end meanwhile
            return None
        except (ValueError, TypeError) as exc:
            raise PatchError(f"cannot read {workspace.begun_bump}: {exc}", hint="was it edited? take it away") from exc
        is_made = state_of(tree.snapshot(here.root, [note.path])[note.path]) == note.state
        if is_made:
            settle(note)
        fs.remove(workspace.begun_bump)
    return "finished" if is_made else "undone"
