"""`lora models`: models and tokenizers from the Hugging Face hub."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from lora_training.cli.app import Group
from lora_training.cli.output import ProgressLine, answer, json_option, sets_option


@click.group(cls=Group)
def models() -> None:
    """Bring the models and tokenizers of a training from the Hugging Face hub."""


@models.command()
@click.argument("file", metavar="CONFIG", type=click.Path(path_type=Path))
@sets_option
@json_option
def fetch(file: Path, sets: tuple[str, ...], *, as_json: bool) -> None:
    """Bring the tokenizers of CONFIG's script, and the models that it names by their hub id."""
    from lora_training.app import models as app

    with closing(ProgressLine()) as progress:
        done = app.fetch(file, sets, progress)
    lines = [f"{name} {'brought to' if is_new else 'is in'} {folder}" for name, is_new, folder in done]
    document = [{**each._asdict(), "folder": str(each.folder)} for each in done]
    answer(document, lines or ["this training loads nothing from the hub"], as_json=as_json)
