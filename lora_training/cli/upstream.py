"""`lora upstream`: the pinned source trees."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from lora_training import workspace
from lora_training.cli.app import Group
from lora_training.cli.bump import bump
from lora_training.cli.output import ProgressLine, answer, json_option, say
from lora_training.patching.tree_state import edits_line
from lora_training.upstream import status as upstream_status

if TYPE_CHECKING:
    from lora_training.patching.verify import Status as PatchRow
    from lora_training.workspace import Workspace


@click.group(cls=Group)
def upstream() -> None:
    """The pinned source trees in third_party/."""


upstream.add_command(bump)


@upstream.command()
@json_option
def status(*, as_json: bool) -> None:
    """Show the pin, source and state of each tree: clean, patched or drifted."""
    here = workspace.find()
    patched = _patched(here)
    rows = [_row(upstream_status.read(here, name), patched.get(name)) for name in here.upstreams]
    answer({"upstreams": rows}, (line for row in rows for line in _line(row).splitlines()), as_json=as_json)


@upstream.command()
@click.argument("names", nargs=-1)
@click.option("--discard-edits", is_flag=True, help="Replace a tree that is not at its pin even if it has changes.")
def sync(names: tuple[str, ...], *, discard_edits: bool) -> None:
    """Fetch each tree (or those NAMES) that is missing or not at its pin."""
    here = workspace.find()
    for name in names or tuple(here.upstreams):
        _sync_one(here, name, discard_edits=discard_edits)


def _sync_one(here: Workspace, name: str, *, discard_edits: bool) -> None:
    from lora_training.upstream.pins import pin
    from lora_training.upstream.sync import sync as bring

    progress = ProgressLine()
    try:
        outcome = bring(here, name, progress, discard_edits=discard_edits)
    finally:
        progress.close()
    how = {"kept": "already there", "git": "brought by git", "sdist": "brought from its source archive"}[outcome]
    say(f"{name}: at {pin(here, name)[:12]}, {how}")


def _patched(here: Workspace) -> dict[str, PatchRow]:
    """Return the state of each tree's patches, by upstream."""
    from lora_training.app.targets import targets
    from lora_training.errors import PatchError
    from lora_training.patching.verify import status as read

    try:
        return {row.name: row for row in read(here, targets(here))}
    except PatchError:
        # without a readable lock, every change counts as drift; `lora patch verify` says why
        return {}


def _row(read: upstream_status.Status, patched: PatchRow | None) -> dict[str, Any]:
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
