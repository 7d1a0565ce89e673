"""Move an upstream to another commit.

The move is rehearsed in a scratch tree. An accepted move is first made and tested in a scratch checkout, and then taken
over in one step.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from lora_training import git_process, repositories, without
from lora_training.app.targets import check_fit, taken_out, target, targets, unfit_targets
from lora_training.errors import LoraError, PatchError
from lora_training.patching import rebase_series, transaction
from lora_training.upstream import bump as bumping
from lora_training.upstream import pins
from lora_training.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from lora_training.app.plan import Plan
    from lora_training.config.schema import Flag
    from lora_training.patching.rebase_series import Note, Rehearsed
    from lora_training.supervise.run import Watcher
    from lora_training.upstream.bump import Rehearsal
    from lora_training.workspace import Upstream

# the paths of this repository that a move changes
_PATHS = ("patches", "PATCHES.md")
_SMOKE = "configs/smoke.toml"


@dataclass(frozen=True)
class Move:
    """A rehearsed move of an upstream, and the runtime patches that it disables."""

    upstream: Upstream
    scratch: Rehearsal
    rehearsed: Rehearsed
    taken_out: Collection[str]


def bump(
    here: Workspace, name: str, ref: str, without_patches: Sequence[str], accepting: Watcher | None
) -> dict[str, Any]:
    """Rehearse a move and return its report; accept the move as well if a watcher is given.

    `without_patches` are runtime patches to disable.
    """
    upstream, wanted = here.upstream(name), target(here, name)
    with bumping.scratch(here, upstream, ref) as scratch:
        rehearsed = rebase_series.rehearse(here, wanted, scratch.tree, scratch.paths)
        unfit = unfit_targets(here, name, _patched(scratch, rehearsed))
        report = _document(name, wanted.pin, scratch, rehearsed, _flag_changes(upstream.path, scratch.tree))
        report["runtime"] = [row.as_dict() for row in unfit]
        report["without"] = taken_out(unfit, without_patches)
        if accepting:
            rebase_series.check(rehearsed)
            check_fit(unfit, report["without"])
            report["dropped"] = _accept(here, Move(upstream, scratch, rehearsed, report["without"]), accepting)
            report["back"] = _way_back(here, upstream, wanted.pin)
        report["accepted"] = accepting is not None
    return report


def _patched(scratch: Rehearsal, rehearsed: Rehearsed) -> list[Path]:
    """Return the folders that make up the patched new tree: the files that our patches change, and the rest."""
    folder = scratch.root / "patched"
    for patch in rehearsed.rebased:
        for path, node in patch.after.items():
            if node is not None and not node.is_folder:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(node.data)
    return [folder, scratch.tree]


def _document(
    name: str, pin: str, scratch: Rehearsal, rehearsed: Rehearsed, flags: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    patches = [
        {"name": patch.name, "needed": patch.is_needed, "hunks": [asdict(hunk) for hunk in patch.hunks]}
        for patch in rehearsed.rebased
    ]
    return {"upstream": name, "from": pin, "to": scratch.commit, "patches": patches, "flags": flags}


def _flag_changes(tree: Path, new: Path) -> dict[str, dict[str, Any]]:
    """Return the flags that appeared, vanished or changed, for each script."""
    from lora_training.config import schema

    changes: dict[str, dict[str, Any]] = {}
    for script in schema.scripts(tree):
        old = schema.read(tree, script).keys
        later = schema.read(new, script).keys if script in schema.scripts(new) else None
        changes[script] = {"vanished script": True} if later is None else _compared(old, later)
    return changes


def _compared(old: dict[str, Flag], new: dict[str, Flag]) -> dict[str, Any]:
    changed = {key: _differences(old[key], new[key]) for key in old if key in new}
    return {
        "appeared": [key for key in new if key not in old],
        "vanished": [key for key in old if key not in new],
        "changed": {key: found for key, found in changed.items() if found},
    }


def _differences(old: Flag, new: Flag) -> dict[str, list[Any]]:
    before, after = asdict(old), asdict(new)
    # the place of a flag and its help text do not matter to a configuration
    told = [key for key in before if key not in {"help", "line", "file", "source", "type_source"}]
    return {key: [str(before[key]), str(after[key])] for key in told if before[key] != after[key]}


def _accept(here: Workspace, move: Move, watcher: Watcher) -> list[str]:
    """Make a rehearsed move and return the patches that are dropped, since they are not needed there.

    Raises PatchError when the move is not possible, and the errors of the smoke training; nothing is moved then.
    """
    upstream, scratch = move.upstream, move.scratch
    _check_committed(here, upstream)
    with transaction.exclusive(transaction.root_of(here)):
        # checked before the training to fail early, and once more after it
        rebase_series.check_unedited(here, target(here, upstream.name))
    checkout = _lay_out(here, upstream, scratch)
    dropped = _write(checkout, upstream.name, move.rehearsed, move.taken_out)
    _train_smoke(here, checkout, move, watcher)
    paths = (*_in_tree(here, upstream, bumping.files(upstream.path)), *_in_tree(here, upstream, scratch.paths))
    ours = [path for root in (here, checkout) for path in rebase_series.paths_of(root, target(root, upstream.name))]
    planned = partial(rebase_series.plan, here.root, checkout.root, [*paths, *ours])
    to = (scratch.commit, bumping.index_of(scratch.tree))
    rebase_series.make(here, target(here, upstream.name), to, planned, partial(_settle, here))
    return dropped


def recover(here: Workspace) -> str | None:
    """Finish or undo an interrupted move; return "finished" or "undone", None when there was none."""
    return rebase_series.recover(here, partial(_settle, here))


def _way_back(here: Workspace, upstream: Upstream, before: str) -> list[str]:
    """Return the commands that restore the last commit and its pin `before`, after a move."""
    head = git_process.head(here.root)
    link = upstream.path.relative_to(here.root).as_posix()
    return [
        "lora patch revert",
        f"git restore --source={head} --staged --worktree -- {' '.join(_PATHS)} {link}",
        f"git -C {link} checkout --quiet --detach {before}",
        "lora patch apply",
    ]


def _settle(here: Workspace, note: Note) -> None:
    index = here.state / "patching" / rebase_series.INDEX
    bumping.settle(here, here.upstream(note.upstream), note.commit, index, *_PATHS)


def _in_tree(here: Workspace, upstream: Upstream, paths: Collection[str]) -> list[str]:
    prefix = upstream.path.relative_to(here.root).as_posix()
    return [f"{prefix}/{path}" for path in paths]


def _check_committed(here: Workspace, upstream: Upstream) -> None:
    """Raise PatchError when there are uncommitted changes, since the commands to go back restore the last commit."""
    changed = bumping.uncommitted(here, upstream, *_PATHS)
    if changed:
        raise PatchError(
            f"not committed yet: {', '.join(changed[:5])}",
            hint="commit that first, or stash it: the commands that go back restore the last commit",
        )


def _lay_out(here: Workspace, upstream: Upstream, scratch: Rehearsal) -> Workspace:
    """Create a checkout around the scratch tree, with the files of this repository and the new pin."""
    root = scratch.root
    for name in (".gitmodules", "PATCHES.md"):
        shutil.copyfile(here.root / name, root / name)
    for name in ("patches", "configs"):
        if (here.root / name).is_dir():
            shutil.copytree(here.root / name, root / name, symlinks=True)
    (root / "lora_training").symlink_to(here.root / "lora_training")
    (root / ".lora").mkdir()
    here.cache.mkdir(parents=True, exist_ok=True)
    (root / ".lora" / "cache").symlink_to(here.cache)
    with repositories.created(root, "--template=") as repo:
        for other in here.upstreams.values():
            link = other.path.relative_to(here.root).as_posix()
            commit = scratch.commit if other == upstream else pins.pin(here, other.name)
            if other != upstream:
                (root / link).symlink_to(other.path)
            repo.git.update_index("--add", "--cacheinfo", f"160000,{commit},{link}")
    return Workspace(root)


def _write(checkout: Workspace, name: str, rehearsed: Rehearsed, taken_out: Collection[str]) -> list[str]:
    """Write the series, the lock and PATCHES.md for the new commit, and apply it; return the dropped patches."""
    from lora_training.patching import docs, engine, lockfile, relock
    from lora_training.patching.conditions import version_of
    from lora_training.patching.transaction import fs

    moved = target(checkout, name)
    version = version_of(name, lambda _, path: (moved.root / path).read_text(encoding="utf-8"))
    dropped = rebase_series.write(moved, rehearsed, f"{name} {version or moved.pin}")
    others = {key: stack for key, stack in lockfile.read(checkout.patches).items() if key != name}
    fs.replace_file(checkout.patches / lockfile.LOCK, lockfile.render(others).encode())
    if taken_out:
        fs.replace_file(checkout.patches / without.FILE, without.render(taken_out))
    else:
        fs.remove(checkout.patches / without.FILE)
    relock.lock(checkout, targets(checkout))
    docs.write(checkout, targets(checkout))
    engine.apply(checkout, [target(checkout, name)])
    return list(dropped)


def _train_smoke(here: Workspace, checkout: Workspace, move: Move, watcher: Watcher) -> None:
    """Train the smoke configuration in the scratch checkout, if it has one."""
    from lora_training.app import plan as plans
    from lora_training.app import train

    file = checkout.root / _SMOKE
    if not file.exists():
        return
    watcher.say("training the smoke configuration at the new commit")
    off = tuple(f"runtime.{name}=false" for name in sorted(move.taken_out))
    try:
        with transaction.shared_lock(checkout):
            plan = plans.make(checkout, file, off, write=True, environ={})
            train.run(checkout, _with_package(plan, checkout.upstream(move.upstream.name)), "never", watcher)
    except LoraError as exc:
        output, kept = checkout.root / "output", here.state / "bump-smoke"
        shutil.rmtree(kept, ignore_errors=True)
        if output.is_dir():
            shutil.copytree(output, kept, symlinks=True)
        exc.message = f"the smoke training fails at the new commit, so nothing was moved: {exc.message}"
        exc.hint = (exc.hint or "").replace(str(output), str(kept)) or None
        raise


def _with_package(plan: Plan, moved: Upstream) -> Plan:
    """Make the training import the moved upstream from the scratch checkout, if it is a package."""
    if not (moved.path / "src").is_dir():
        return plan
    folders = [str(moved.path / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**plan.spec.env, "PYTHONPATH": os.pathsep.join(folders)}
    return replace(plan, spec=replace(plan.spec, env=env))
