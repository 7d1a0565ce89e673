"""`lora upstream bump`: rehearse a move to another commit of an upstream, and make it with --accept."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lora_training import workspace
from lora_training.cli.output import json_option, print_json, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lora_training.config.schema import Flag
    from lora_training.patching.moving import Rehearsed
    from lora_training.upstream.bump import Rehearsal
    from lora_training.workspace import Upstream, Workspace


@click.command()
@click.argument("upstream")
@click.argument("ref")
@click.option("--accept", is_flag=True, help="Make the move: the tree, the pin, the patches, the lock, PATCHES.md.")
@json_option
def bump(upstream: str, ref: str, *, accept: bool, as_json: bool) -> None:
    """Rehearse UPSTREAM at REF: what becomes of every hunk of our patches, and of the flags of our configurations."""
    from lora_training.cli.targets import target
    from lora_training.patching import moving
    from lora_training.upstream import bump as bumping

    here = workspace.find()
    tree = here.upstream(upstream)
    wanted = target(here, upstream)
    with bumping.scratch(here, tree, ref) as there:
        rehearsed = moving.rehearse(here, wanted, there.tree, there.paths)
        flags = _flag_changes(here, tree, there.tree)
        report = _document(upstream, wanted.pin, there, rehearsed, flags)
        if accept:
            moving.check(rehearsed)
            report["dropped"] = _accept(here, tree, there, rehearsed)
        report["accepted"] = accept
    if as_json:
        print_json(report)
    else:
        say(*_lines(report))


def _accept(here: Workspace, upstream: Upstream, there: Rehearsal, rehearsed: Rehearsed) -> list[str]:
    from lora_training.cli.targets import target, targets
    from lora_training.patching import docs, engine, moving, relock
    from lora_training.patching.removal import version_of
    from lora_training.upstream import bump as bumping

    engine.revert(here, [target(here, upstream.name)])
    version = version_of(upstream.name, lambda _, path: (there.tree / path).read_text(encoding="utf-8"))
    with _undone_on_error(here, upstream):
        bumping.move(here, upstream, there.commit)
        moved = target(here, upstream.name)
        dropped = moving.write(moved, rehearsed, f"{upstream.name} {version or there.commit}")
        relock.lock(here, targets(here))
        docs.write(here, targets(here))
    return list(dropped)


@contextmanager
def _undone_on_error(here: Workspace, upstream: Upstream) -> Iterator[None]:
    """Patches, pin and tree as they were when something goes wrong between them."""
    from lora_training.upstream import bump as bumping
    from lora_training.upstream import pins

    before = pins.pin(here, upstream.name)
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "patches"
        shutil.copytree(here.patches, kept)
        try:
            yield
        except BaseException:
            shutil.copytree(kept, here.patches, dirs_exist_ok=True)
            bumping.move(here, upstream, before)
            raise


def _document(
    name: str, pin: str, there: Rehearsal, rehearsed: Rehearsed, flags: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    patches = [
        {"name": patch.name, "needed": patch.is_needed, "hunks": [asdict(hunk) for hunk in patch.hunks]}
        for patch in rehearsed.carried
    ]
    return {"upstream": name, "from": pin, "to": there.commit, "patches": patches, "flags": flags}


def _flag_changes(here: Workspace, upstream: Upstream, new: Path) -> dict[str, dict[str, Any]]:
    """For each script that our configurations use: the flags that appeared, vanished or changed."""
    from lora_training.config import schema

    known = schema.scripts(upstream.path)
    changes: dict[str, dict[str, Any]] = {}
    for script in _scripts_in_use(here):
        if script in known:
            old = schema.read(upstream.path, script).keys
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
    # where it stands and what its help says are no change to a configuration
    told = [key for key in before if key not in {"help", "line", "file", "source", "type_source"}]
    return {key: [str(before[key]), str(after[key])] for key in told if before[key] != after[key]}


def _scripts_in_use(here: Workspace) -> list[str]:
    import re

    found = set()
    for path in sorted((here.root / "configs").glob("*.toml")):
        found |= set(re.findall(r'^script = "(\w+)"', path.read_text(encoding="utf-8"), re.MULTILINE))
    return sorted(found)


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [f"{report['upstream']}: {report['from'][:12]} -> {report['to'][:12]}"]
    for patch in report["patches"]:
        lines.append(f"{patch['name']}:{'' if patch['needed'] else ' not needed any more'}")
        lines += [f"  {_hunk_line(hunk)}" for hunk in patch["hunks"]]
    for script, changes in report["flags"].items():
        if not any(changes.values()):
            continue
        lines.append(f"{script}:")
        lines += [f"  {what}: {_listed(names)}" for what, names in changes.items() if names]
    if report["accepted"]:
        dropped = f"; dropped: {', '.join(report['dropped'])}" if report["dropped"] else ""
        lines.append(f"moved{dropped}; now `lora patch apply`, and commit the pin with the patches")
    return lines


def _hunk_line(hunk: dict[str, Any]) -> str:
    offset = f" {hunk['offset']:+d} lines" if hunk["offset"] else ""
    where = f" in {hunk['place']}" if hunk["place"] != hunk["path"] else ""
    note = f" ({hunk['note']})" if hunk["note"] else ""
    return f"line {hunk['line']}, {hunk['path']}: {hunk['fate']}{offset}{where}{note}"


def _listed(names: Any) -> str:
    if isinstance(names, dict):
        return "; ".join(f"{key} ({', '.join(map(_change, found.items()))})" for key, found in names.items())
    return ", ".join(names) if isinstance(names, list) else str(names)


def _change(found: tuple[str, list[str]]) -> str:
    return f"{found[0]} {found[1][0]} -> {found[1][1]}"
