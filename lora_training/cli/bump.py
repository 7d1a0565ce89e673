"""`lora upstream bump`: rehearse a move to another commit of an upstream, and make it with --accept."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from lora_training import workspace
from lora_training.app import runtime_targets
from lora_training.cli.output import json_option, print_json, say

if TYPE_CHECKING:
    from pathlib import Path

    from lora_training.config.schema import Flag
    from lora_training.patching.moving import Rehearsed
    from lora_training.upstream.bump import Rehearsal
    from lora_training.workspace import Upstream, Workspace


@click.command()
@click.argument("upstream")
@click.argument("ref")
@click.option("--accept", is_flag=True, help="Make the move: the tree, the pin, the patches, the lock, PATCHES.md.")
@click.option("--without", "names", multiple=True, metavar="NAME", help="Take a runtime patch out; may be repeated.")
@json_option
def bump(upstream: str, ref: str, *, accept: bool, names: tuple[str, ...], as_json: bool) -> None:
    """Show what moving UPSTREAM to REF would change. Nothing is written without --accept.

    For each hunk of the patches, each flag of the configurations and each target of the runtime patches.
    """
    from lora_training.app.targets import target
    from lora_training.patching import moving
    from lora_training.upstream import bump as bumping

    here = workspace.find()
    _check_names(names)
    tree = here.upstream(upstream)
    wanted = target(here, upstream)
    with bumping.scratch(here, tree, ref) as there:
        rehearsed = moving.rehearse(here, wanted, there.tree, there.paths)
        unfit = runtime_targets.unfit(here, upstream, _patched(there, rehearsed))
        report = _document(upstream, wanted.pin, there, rehearsed, _flag_changes(here, tree, there.tree))
        report["runtime"] = [row.as_dict() for row in unfit]
        report["without"] = runtime_targets.taken_out(unfit, names)
        if accept:
            from lora_training.app import bump as moves

            moving.check(rehearsed)
            runtime_targets.check_fit(unfit, report["without"])
            report["dropped"] = moves.accept(here, tree, there, rehearsed, report["without"])
            report["back"] = moves.way_back(here, tree, wanted.pin)
        report["accepted"] = accept
    if as_json:
        print_json(report)
    else:
        say(*_lines(report))


def _check_names(names: tuple[str, ...]) -> None:
    from lora_training.runtime import registry

    for name in names:
        if name not in registry.available():
            known = ", ".join(registry.available())
            raise click.BadParameter(
                f"there is no runtime patch named {name}; there are: {known}", param_hint="--without"
            )


def _patched(there: Rehearsal, rehearsed: Rehearsed) -> list[Path]:
    """The new tree as the runtime patches will find it: a folder of the files that our patches change, and the rest."""
    folder = there.root / "patched"
    for carried in rehearsed.carried:
        for path, node in carried.after.items():
            if node is not None and not node.is_folder:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(node.data)
    return [folder, there.tree]


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
    lines += _runtime_lines(report)
    return lines + (_moved_lines(report) if report["accepted"] else [])


def _runtime_lines(report: dict[str, Any]) -> list[str]:
    lines = []
    for name in dict.fromkeys(row["patch"] for row in report["runtime"]):
        rows = [row for row in report["runtime"] if row["patch"] == name]
        lines.append(f"runtime patch {name}{' (on by default)' if rows[0]['on_by_default'] else ''} does not fit:")
        lines += [f"  {row['target']} in {row['file']} {row['what']}" for row in rows]
        lines.append(f"  {rows[0]['mend']}")
    if report["without"]:
        lines.append(f"taken out with --accept: {', '.join(report['without'])}")
    return lines


def _moved_lines(report: dict[str, Any]) -> list[str]:
    dropped = f"; dropped: {', '.join(report['dropped'])}" if report["dropped"] else ""
    lines = [
        f"moved, all patches in{dropped}; what has changed is staged: look at it with `git diff --staged`, commit it"
    ]
    return [*lines, "to go back, in the checkout's folder:", *(f"  {line}" for line in report["back"])]


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
