"""`lora data`: look at the data of a training."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lora_training.cli.app import Group
from lora_training.cli.output import ProgressLine, json_option, print_json, say

_SCRIPT = "sdxl_train_network"


def _extension(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"\.[\w.-]+", value):
        raise click.BadParameter("it begins with a dot, as .txt")
    return value


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def data() -> None:
    """Check and caption the images of a training."""


@data.command()
@click.argument("place", metavar="CONFIG|FOLDER", type=click.Path(path_type=Path, exists=True))
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write an HTML file with thumbnails.")
@click.option("--trigger", metavar="WORD", help="Name the images whose caption lacks this word.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a value of CONFIG; may be repeated.")
@click.option("--script", default=_SCRIPT, show_default=True, help="Of a FOLDER: the script that would train on it.")
@click.option("--resolution", default=1024, show_default=True, type=click.IntRange(64), help="Of a FOLDER.")
@click.option("--caption-extension", callback=_extension, help="Of a FOLDER; by default that of most captions in it.")
@json_option
def check(
    *, place: Path, report: Path | None, trigger: str | None, sets: tuple[str, ...], as_json: bool, **folder: Any
) -> None:
    """Show the buckets, captions and doubtful images of CONFIG or FOLDER. Exit code 1 when there is an error."""
    from lora_training.app import data as app

    found = app.check(place, sets, app.Folder(**folder), trigger, ProgressLine())
    if report:
        app.write_report(found, str(place), report)
    if as_json:
        print_json(app.as_json(found))
    else:
        say(*app.lines(found))
        say(*([f"report: {report}"] if report else []))
    if any(fault.severity == "error" for fault in found.faults):
        click.get_current_context().exit(1)


def _captioning(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that `tag` and `caption` share."""
    for option in reversed(
        [
            click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False)),
            click.argument("more", nargs=-1, type=click.UNPROCESSED, metavar="[-- UPSTREAM'S ARGUMENTS]"),
            click.option("--model", help="A hub id, an address or a place on this machine; by default upstream's own."),
            click.option("--caption-extension", "extension", default=".txt", show_default=True, callback=_extension),
            click.option("--trigger", metavar="WORD", help="Put this first in each caption."),
            click.option("--recursive", is_flag=True, help="Also images in folders of FOLDER."),
            click.option("--overwrite", "overwrites", is_flag=True, help="Also images that have a caption."),
            click.option("--undo", is_flag=True, help="Bring back what was there before the last use in FOLDER."),
            json_option,
        ]
    ):
        command = option(command)
    return command


@data.command()
@_captioning
@click.option("--blacklist", metavar="TAGS", help="Leave these tags out, separated by commas.")
def tag(*, undo: bool, as_json: bool, **given: Any) -> None:
    """Tag the images in FOLDER that have no caption, with upstream's WD14 tagger."""
    _caption("tag", given, undo=undo, as_json=as_json)


@data.command()
@_captioning
def caption(*, undo: bool, as_json: bool, **given: Any) -> None:
    """Caption the images in FOLDER that have no caption, with BLIP."""
    _caption("caption", given, undo=undo, as_json=as_json)


def _caption(how: str, given: dict[str, Any], *, undo: bool, as_json: bool) -> None:
    from lora_training import workspace
    from lora_training.app import captioning as app

    here, request = workspace.find(), app.Request(**given)
    if undo:
        restored, edited = app.take_back(here, request.folder)
        _say_undone(restored, edited, as_json=as_json)
        return
    progress = ProgressLine()
    try:
        found = getattr(app, how)(here, request, progress)
    finally:
        progress.close()
    if as_json:
        print_json({"written": list(map(str, found.written)), "skipped": found.skipped, "broken": found.broken})
    else:
        say(f"{len(found.written)} captions written, {found.skipped} images had one")
        say(*(f"error: {path} does not decode: {why}" for path, why in found.broken.items()), err=True)
    if found.broken:
        click.get_current_context().exit(6)


def _say_undone(restored: list[Path], edited: list[Path], *, as_json: bool) -> None:
    if as_json:
        print_json({"restored": list(map(str, restored)), "edited": list(map(str, edited))})
        return
    say(f"{len(restored)} captions are as they were")
    say(*(f"warning: {path} was edited since, and is left as it is" for path in edited), err=True)
