"""`lora data`: look at the data of a training."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import click

from lora_training.cli.app import Group
from lora_training.cli.output import ProgressLine, answer, json_option, say, sets_option


def _extension(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"\.[\w.-]+", value):
        raise click.BadParameter("it begins with a dot, as .txt")
    if value and (mimetypes.guess_type(f"a{value}")[0] or "").startswith("image/"):
        raise click.BadParameter("it is that of pictures")
    return value


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def data() -> None:
    """Check and caption the images of a training."""


@data.command()
@click.argument("place", metavar="CONFIG|FOLDER", type=click.Path(path_type=Path, exists=True))
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write an HTML file with thumbnails.")
@click.option("--trigger", metavar="WORD", help="Name the images whose caption lacks this word.")
@sets_option
@click.option("--script", show_default="sdxl_train_network", help="Of a FOLDER: the script that would train on it.")
@click.option("--resolution", show_default="1024", type=click.IntRange(64), help="Of a FOLDER.")
@click.option("--caption-extension", callback=_extension, help="Of a FOLDER; by default that of most captions in it.")
@json_option
def check(
    *, place: Path, report: Path | None, trigger: str | None, sets: tuple[str, ...], as_json: bool, **folder: Any
) -> None:
    """Show the buckets, captions and doubtful images of CONFIG or FOLDER. Exit code 1 when there is an error."""
    from lora_training.app import data as app

    given = {name: value for name, value in folder.items() if value is not None}
    if sets if place.is_dir() else given:
        raise click.UsageError("--set is for a CONFIG; --script, --resolution and --caption-extension are for a FOLDER")
    found = app.check(place, sets, trigger, ProgressLine(), **given)
    if report:
        app.write_report(found, str(place), report)
    said = (*app.lines(found), *([f"report: {report}"] if report else []))
    answer(app.as_json(found), said, as_json=as_json)
    if any(fault.severity == "error" for fault in found.faults):
        click.get_current_context().exit(1)


def _captioning(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that `tag` and `caption` share."""
    options = (
        click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False)),
        click.argument("more", nargs=-1, type=click.UNPROCESSED, metavar="[-- UPSTREAM'S ARGUMENTS]"),
        click.option("--model", help="A hub id, an address or a place on this machine; by default upstream's own."),
        click.option("--caption-extension", "extension", default=".txt", show_default=True, callback=_extension),
        click.option("--trigger", metavar="WORD", help="Put this first in each caption."),
        click.option("--recursive", is_flag=True, help="Also images in folders of FOLDER."),
        click.option("--overwrite", "overwrites", is_flag=True, help="Also images that have a caption."),
        click.option("--undo", is_flag=True, help="Bring back what was there before the last use in FOLDER."),
        json_option,
    )
    return reduce(lambda made, option: option(made), reversed(options), command)


@data.command()
@_captioning
@click.option("--blacklist", metavar="TAGS", help="Leave these tags out, separated by commas.")
def tag(**given: Any) -> None:
    """Tag the images in FOLDER that have no caption, with upstream's WD14 tagger."""
    _caption("tag", **given)


@data.command()
@_captioning
def caption(**given: Any) -> None:
    """Caption the images in FOLDER that have no caption, with BLIP."""
    _caption("caption", **given)


def _caption(how: str, *, undo: bool, as_json: bool, **given: Any) -> None:
    from lora_training import workspace
    from lora_training.app import captioning as app

    here, request = workspace.find(), app.Request(**given)
    if undo:
        restored, edited = app.take_back(here, request.folder)
        undone = {"restored": list(map(str, restored)), "edited": list(map(str, edited))}
        answer(undone, [f"{len(restored)} captions are as they were"], as_json=as_json)
        say(*(f"warning: {path} was edited since, and is left as it is" for path in edited), err=True)
        return
    progress = ProgressLine()
    try:
        found = app.Captions(here, request, progress)
        getattr(found, how)()
    finally:
        progress.close()
    written = {"written": list(map(str, found.written)), "skipped": found.skipped, "broken": found.broken}
    answer(written, [f"{len(found.written)} captions written, {found.skipped} images had one"], as_json=as_json)
    say(*(f"error: {path} does not decode: {why}" for path, why in found.broken.items()), err=True)
    if found.broken:
        click.get_current_context().exit(6)
