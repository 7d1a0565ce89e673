"""`lora doctor`: a report on this machine and checkout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import click

from lora_training import workspace
from lora_training.cli.output import ProgressLine, answer, json_option
from lora_training.problems import Problem

_LEVELS = {"error": "problem", "warning": "warn", "ok": "ok"}


@click.command()
@json_option
def doctor(*, as_json: bool) -> None:
    """Check this machine and checkout. Exit code 1 when there is a problem."""
    from lora_training.app.doctor import checkout as health

    with closing(ProgressLine()) as progress:
        found = list(health.examine(workspace.find(), progress))
    counts = {level: sum(_LEVELS[each.severity] == level for each in found) for level in ("problem", "warn")}
    document = {"ok": not counts["problem"], "findings": [_document(each) for each in found]}
    lines = (line for each in found for line in _lines(each))
    answer(document, [*lines, _verdict(counts["problem"], counts["warn"])], as_json=as_json)
    if counts["problem"]:
        click.get_current_context().exit(1)


def _document(each: Problem) -> dict[str, str | None]:
    return {"about": each.where, "level": _LEVELS[each.severity], "text": each.message, "hint": each.hint}


def _lines(each: Problem) -> Iterator[str]:
    yield f"{_LEVELS[each.severity]:<8} {each.where:<12} {each.message}"
    yield from (f"{'':<21} {line}" for line in (each.hint or "").splitlines())


def _verdict(problems: int, warnings: int) -> str:
    said = f"{problems} problem{'s' * (problems != 1)}" if problems else "in order"
    return f"{said}, {warnings} warning{'s' * (warnings != 1)}" if warnings else said
