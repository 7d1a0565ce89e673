"""`lora weights`: the contents of files of weights."""

from __future__ import annotations

from pathlib import Path

import click

from lora_training.cli.app import Group
from lora_training.cli.output import answer, json_option


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def weights() -> None:
    """Look into files of weights."""


@weights.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE [FILE]", type=click.Path(path_type=Path))
@json_option
def show(files: tuple[Path, ...], *, as_json: bool) -> None:
    """Describe a .safetensors FILE: its family, tensors, ranks, alphas and what made it; of two, what differs."""
    from lora_training.app import weights as app

    if files[2:]:
        raise click.UsageError("give one file, or two to compare")
    described = [app.describe(file) for file in files]
    difference = app.compare(*files) if len(files) > 1 else None
    said = [line for each in described for line in app.lines(each)]
    said += app.difference_lines(difference) if difference else ()
    answer({"files": described, "difference": difference}, said, as_json=as_json)
