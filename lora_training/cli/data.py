"""`lora data`: look at the data of a training."""

from __future__ import annotations

from pathlib import Path

import click

from lora_training.cli.app import Group
from lora_training.cli.output import ProgressLine, json_option, print_json, say

_SCRIPT = "sdxl_train_network"


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
@click.option("--caption-extension", help="Of a FOLDER; by default that of most captions in it.")
@json_option
def check(  # noqa: PLR0913 - one parameter an option
    place: Path,
    *,
    report: Path | None,
    trigger: str | None,
    sets: tuple[str, ...],
    script: str,
    resolution: int,
    caption_extension: str | None,
    as_json: bool,
) -> None:
    """Show the buckets, captions and doubtful images of CONFIG or FOLDER. Exit code 1 when there is an error."""
    from lora_training.app import data as app

    folder = app.Folder(script, resolution, caption_extension)
    found = app.check(place, sets, folder, trigger, ProgressLine())
    if report:
        app.write_report(found, str(place), report)
    if as_json:
        print_json(app.as_json(found))
    else:
        say(*app.lines(found))
        say(*([f"report: {report}"] if report else []))
    if any(fault.severity == "error" for fault in found.faults):
        click.get_current_context().exit(1)
