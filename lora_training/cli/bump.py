"""`lora upstream bump`: rehearse a move to another commit of an upstream, and make it with --accept."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import click

from lora_training import workspace
from lora_training.cli.output import answer, json_option


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
    from lora_training.app import bump as bumping
    from lora_training.cli.terminal import Terminal

    here = workspace.find()
    _check_names(names)
    with closing(Terminal(verbose=False)) as terminal:
        report = bumping.bump(here, upstream, ref, names, terminal if accept else None)
    answer(report, _lines(report), as_json=as_json)


def _check_names(names: tuple[str, ...]) -> None:
    from lora_training.runtime import registry

    for name in names:
        if name not in registry.available():
            known = ", ".join(registry.available())
            raise click.BadParameter(
                f"there is no runtime patch named {name}; there are: {known}", param_hint="--without"
            )


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
