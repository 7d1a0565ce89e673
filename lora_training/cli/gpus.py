"""`lora gpus`: the GPUs of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from lora_training import workspace
from lora_training.app import machine
from lora_training.cli.output import answer, json_option


@click.command()
@json_option
def gpus(*, as_json: bool) -> None:
    """Show each GPU: memory, utilization, temperature, power, and the runs on it."""
    found = machine.gpus(workspace.find())
    lines = [found["why"]] if found["why"] else [line for gpu in found["gpus"] for line in _lines(gpu)]
    answer(found, lines, as_json=as_json)


def _lines(gpu: dict[str, Any]) -> Iterator[str]:
    memory = f"{_said(gpu['memoryUsed'])} of {_said(gpu['memoryTotal'])} GB"
    yield f"{gpu['index']}: {_said(gpu['name'])}, {gpu['uuid']}"
    figures = f"{_said(gpu['utilization'])} %, {_said(gpu['temperature'])} degrees, {_said(gpu['power'])} W"
    yield f"   {memory}, {figures}"
    for process in gpu["processes"]:
        whose = process["run"] or "not a run of this checkout"
        yield f"   process {process['pid']}: {_said(process['memoryUsed'])} GB, {whose}"


def _said(value: Any) -> str:
    return "N/A" if value is None else str(value)
