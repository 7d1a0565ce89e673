"""`lora upstream`: the pinned source trees: their state, fetching them, and moving one to another commit."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from lora_training import workspace
from lora_training.cli.app import Group
from lora_training.cli.output import ProgressLine, answer, json_option, say
from lora_training.patching.tree_state import edits_line
from lora_training.upstream import pins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lora_training.patching.verify import Status as PatchRow
    from lora_training.workspace import Workspace


@click.group(cls=Group)
def upstream() -> None:
    """The pinned source trees in third_party/."""


@upstream.command()
@json_option
def status(*, as_json: bool) -> None:
    """Show the pin, source and state of each tree: clean, patched or drifted."""
    here = workspace.find()
    patched = _patched(here, tuple(here.upstreams))
    rows = [_row(pins.status(here, name), patched.get(name)) for name in here.upstreams]
    answer({"upstreams": rows}, (line for row in rows for line in _line(row).splitlines()), as_json=as_json)


@upstream.command()
@click.argument("names", nargs=-1)
@click.option("--discard-edits", is_flag=True, help="Also replace a tree with local edits, which are lost.")
def sync(names: tuple[str, ...], *, discard_edits: bool) -> None:
    """Fetch each tree (or those NAMES) that is missing or not at its pin."""
    here = workspace.find()
    for name in names or tuple(here.upstreams):
        _sync_one(here, name, discard_edits=discard_edits and _has_edits(here, name))


def _has_edits(here: Workspace, name: str) -> bool:
    """Return whether a tree is at another commit than its pin, or has changes that no patch contains."""
    row = _row(pins.status(here, name), _patched(here, [name]).get(name))
    return not row["at_pin"] or row["state"] == "drifted"


def _sync_one(here: Workspace, name: str, *, discard_edits: bool) -> None:
    from lora_training.upstream.sync import sync as bring

    with closing(ProgressLine()) as progress:
        outcome = bring(here, name, progress, discard_edits=discard_edits)
    how = {"kept": "already there", "git": "brought by git", "sdist": "brought from its source archive"}[outcome]
    row = _row(pins.status(here, name), _patched(here, [name]).get(name))
    told = edits_line(row["edited"], row["cure"])
    say(*f"{name}: at {pins.pin(here, name)[:12]}, {how}{told}".splitlines())


def _patched(here: Workspace, names: Sequence[str]) -> dict[str, PatchRow]:
    """Return the state of each tree's patches, by upstream."""
    from lora_training.app.targets import targets
    from lora_training.errors import PatchError
    from lora_training.patching.verify import status as read

    try:
        return {row.name: row for row in read(here, targets(here, names))}
    except PatchError:
        # without a readable lock, every change counts as drift; `lora patch verify` says why
        return {}


def _row(read: pins.Status, patched: PatchRow | None) -> dict[str, Any]:
    edited = patched.edited if patched else ()
    return {
        **asdict(read),
        "path": str(read.path),
        "at_pin": read.at_pin,
        "state": "drifted" if edited else read.state(patched.patched if patched else ()),
        "edited": edited,
        "cure": patched.cure if patched else None,
    }


def _line(row: dict[str, Any]) -> str:
    if row["state"] == "missing":
        return f"{row['name']}: missing (pin {row['pin'][:12]}); `lora upstream sync` brings it"
    told = edits_line(row["edited"], row["cure"])
    place = "at its pin" if row["at_pin"] else f"NOT at its pin {row['pin'][:12]}"
    return f"{row['name']}: {row['commit'][:12]}, {place}, {row['state']}, from {row['source']}{told}"


@upstream.command()
@click.argument("name", metavar="UPSTREAM")
@click.argument("ref")
@click.option("--accept", is_flag=True, help="Make the move: the tree, the pin, the patches, the lock, PATCHES.md.")
@click.option("--without", "names", multiple=True, metavar="NAME", help="Take a runtime patch out; may be repeated.")
@json_option
def bump(name: str, ref: str, *, accept: bool, names: tuple[str, ...], as_json: bool) -> None:
    """Show what moving UPSTREAM to REF would change. Nothing is written without --accept.

    For each hunk of the patches, each flag of the scripts and each target of the runtime patches.
    """
    from lora_training.app import bump as bumping
    from lora_training.cli.terminal import Terminal

    if not ref:
        raise click.BadParameter("it cannot be empty", param_hint="REF")
    here = workspace.find()
    _check_names(names)
    with closing(Terminal(verbose=False)) as terminal:
        report = bumping.bump(here, name, ref, names, terminal if accept else None)
    answer(report, _report_lines(report), as_json=as_json)


def _check_names(names: tuple[str, ...]) -> None:
    from lora_training.runtime import registry

    for name in names:
        if name not in registry.available():
            known = ", ".join(registry.available())
            raise click.BadParameter(
                f"there is no runtime patch named {name}; there are: {known}", param_hint="--without"
            )


def _report_lines(report: dict[str, Any]) -> list[str]:
    lines = [f"{report['upstream']}: {report['from'][:12]} -> {report['to'][:12]}"]
    for patch in report["patches"]:
        lines.append(f"{patch['name']}:{'' if patch['needed'] else ' not needed any more'}")
        lines += [f"  {_hunk_line(hunk)}" for hunk in patch["hunks"]]
    for script, changes in report["flags"].items():
        lines += [f"{script}:"] if any(changes.values()) else []
        lines += [f"  {what}: {_listed(names)}" for what, names in changes.items() if names]
    return [*lines, *_runtime_lines(report), *(_moved_lines(report) if report["accepted"] else [])]


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
    return [
        f"moved, all patches in{dropped}; what has changed is staged: look at it with `git diff --staged`, commit it",
        *("to go back, in the checkout's folder:", *(f"  {line}" for line in report["back"])),
    ]


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
