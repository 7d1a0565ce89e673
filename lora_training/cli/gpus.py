"""`lora gpus`: the GPUs of this machine."""

from __future__ import annotations

from typing import Any

import click

from lora_training import workspace
from lora_training.app import machine
from lora_training.cli.output import json_option, print_json, say


@click.command()
@json_option
def gpus(*, as_json: bool) -> None:
    """Show each GPU: memory, utilization, temperature, power, and the runs on it."""
    found = machine.gpus(workspace.find())
    if as_json:
        print_json(found)
        return
    if found["why"]:
        say(found["why"])
    for gpu in found["gpus"]:
        memory = f"{_said(gpu['memoryUsed'])} of {_said(gpu['memoryTotal'])} GB"
        say(f"{gpu['index']}: {_said(gpu['name'])}, {gpu['uuid']}")
        figures = f"{_said(gpu['utilization'])} %, {_said(gpu['temperature'])} degrees, {_said(gpu['power'])} W"
        say(f"   {memory}, {figures}")
        for process in gpu["processes"]:
            whose = process["run"] or "not a run of this checkout"
            say(f"   process {process['pid']}: {_said(process['memoryUsed'])} GB, {whose}")


def _said(value: Any) -> str:
    return "N/A" if value is None else str(value)
