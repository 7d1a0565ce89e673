"""`lora upstream bump --accept`: all of the move is made and tried in a scratch checkout, then taken over at once."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from lora_training import git, without
from lora_training.errors import LoraError, PatchError
from lora_training.patching import site, switch
from lora_training.upstream import bump as bumping
from lora_training.upstream import pins
from lora_training.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Collection

    from lora_training.app.plan import Plan
    from lora_training.patching.moving import Rehearsed
    from lora_training.patching.switch import Note
    from lora_training.upstream.bump import Rehearsal
    from lora_training.workspace import Upstream

# what a move changes of our own
_OURS = ("patches", "PATCHES.md")
_SMOKE = "configs/smoke.toml"


def accept(
    here: Workspace, upstream: Upstream, there: Rehearsal, rehearsed: Rehearsed, taken_out: Collection[str]
) -> list[str]:
    """Move an upstream to the commit of a rehearsal; the patches that are dropped, since they are not needed there.

    Raises PatchError when something is in the way, and what the smoke training raises; nothing has moved then.
    """
    from lora_training.app.targets import target

    _check_committed(here, upstream)
    with site.alone(site.of_workspace(here)):
        # found out before the training, and once more after it
        switch.check_unedited(here, target(here, upstream.name))
    checkout = _lay_out(here, upstream, there)
    dropped = _write(checkout, upstream.name, rehearsed, taken_out)
    _train_smoke(here, checkout, upstream, taken_out)
    paths = (*_in_tree(here, upstream, bumping.files(upstream.path)), *_in_tree(here, upstream, there.paths))
    ours = [path for root in (here, checkout) for path in switch.paths_of(root, target(root, upstream.name))]
    planned = partial(switch.plan, here.root, checkout.root, [*paths, *ours])
    to = (there.commit, bumping.index_of(there.tree))
    switch.make(here, target(here, upstream.name), to, planned, partial(_settle, here))
    return dropped


def recover(here: Workspace) -> None:
    """Bring a move that was interrupted to its end, and say so."""
    outcome = switch.recover(here, partial(_settle, here))
    if outcome:
        sys.stderr.write(f"note: an interrupted `lora upstream bump` was {outcome}\n")


def way_back(here: Workspace, upstream: Upstream, before: str) -> list[str]:
    """The commands that bring back what was committed here, and its pin `before`, once a move has been made."""
    head = git.git("rev-parse", "HEAD", cwd=here.root).strip()
    link = upstream.path.relative_to(here.root).as_posix()
    return [
        "lora patch revert",
        f"git restore --source={head} --staged --worktree -- {' '.join(_OURS)} {link}",
        f"git -C {link} checkout --quiet --detach {before}",
        "lora patch apply",
    ]


def _settle(here: Workspace, note: Note) -> None:
    index = here.state / "patching" / switch.INDEX
    bumping.settle(here, here.upstream(note.upstream), note.commit, index, *_OURS)


def _in_tree(here: Workspace, upstream: Upstream, paths: Collection[str]) -> list[str]:
    prefix = upstream.path.relative_to(here.root).as_posix()
    return [f"{prefix}/{path}" for path in paths]


def _check_committed(here: Workspace, upstream: Upstream) -> None:
    """The way back is to what was committed."""
    changed = bumping.uncommitted(here, upstream, *_OURS)
    if changed:
        raise PatchError(
            f"not committed yet: {', '.join(changed[:5])}",
            hint="commit that first, or stash it; what was committed is what there is a way back to",
        )


def _lay_out(here: Workspace, upstream: Upstream, there: Rehearsal) -> Workspace:
    """Make a checkout around the scratch tree: our files as they are here, and the new pin."""
    root = there.root
    for name in (".gitmodules", "PATCHES.md"):
        shutil.copyfile(here.root / name, root / name)
    for name in ("patches", "configs"):
        if (here.root / name).is_dir():
            shutil.copytree(here.root / name, root / name, symlinks=True)
    (root / "lora_training").symlink_to(here.root / "lora_training")
    (root / ".lora").mkdir()
    here.cache.mkdir(parents=True, exist_ok=True)
    (root / ".lora" / "cache").symlink_to(here.cache)
    git.git("init", "--quiet", "--template=", cwd=root)
    for other in here.upstreams.values():
        place = root / other.path.relative_to(here.root)
        commit = there.commit if other == upstream else pins.pin(here, other.name)
        if other != upstream:
            place.symlink_to(other.path)
        link = place.relative_to(root).as_posix()
        git.git("update-index", "--add", "--cacheinfo", f"160000,{commit},{link}", cwd=root)
    return Workspace(root)


def _write(checkout: Workspace, name: str, rehearsed: Rehearsed, taken_out: Collection[str]) -> list[str]:
    """Write the series, the lock and PATCHES.md for the new commit, and apply the series; the patches dropped."""
    from lora_training.app.targets import target, targets
    from lora_training.patching import docs, engine, fs, lockfile, moving, relock
    from lora_training.patching.removal import version_of

    moved = target(checkout, name)
    version = version_of(name, lambda _, path: (moved.root / path).read_text(encoding="utf-8"))
    dropped = moving.write(moved, rehearsed, f"{name} {version or moved.pin}")
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


def _train_smoke(here: Workspace, checkout: Workspace, upstream: Upstream, taken_out: Collection[str]) -> None:
    """Train the smoke configuration of the scratch checkout, where there is one."""
    from lora_training.app import plan as plans
    from lora_training.cli import train
    from lora_training.cli.terminal import Terminal

    file = checkout.root / _SMOKE
    if not file.exists():
        return
    sys.stderr.write("training the smoke configuration at the new commit\n")
    off = tuple(f"runtime.{name}=false" for name in sorted(taken_out))
    try:
        with site.shared_lock(checkout), closing(Terminal(verbose=False)) as terminal:
            plan = plans.make(checkout, file, off, write=True, environ={})
            train.run(checkout, _with_package(plan, checkout.upstream(upstream.name)), "never", terminal)
    except LoraError as exc:
        output, kept = checkout.root / "output", here.state / "bump-smoke"
        shutil.rmtree(kept, ignore_errors=True)
        if output.is_dir():
            shutil.copytree(output, kept, symlinks=True)
        exc.message = f"the smoke training fails at the new commit, so nothing was moved: {exc.message}"
        exc.hint = (exc.hint or "").replace(str(output), str(kept)) or None
        raise


def _with_package(plan: Plan, moved: Upstream) -> Plan:
    """Have the training import an upstream that is a package from the scratch checkout."""
    if not (moved.path / "src").is_dir():
        return plan
    folders = [str(moved.path / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**plan.spec.env, "PYTHONPATH": os.pathsep.join(folders)}
    return replace(plan, spec=replace(plan.spec, env=env))
