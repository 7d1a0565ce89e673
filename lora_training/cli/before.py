"""The checks before a start, as `lora train` shows them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

from lora_training.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lora_training.cli.plan import Plan
    from lora_training.preflight.finding import Finding, Job
    from lora_training.workspace import Workspace


def check(here: Workspace, plan: Plan, *, keeps: bool) -> None:
    """Say what may go wrong with a training. Raises ConfigError for what will, all of it at once.

    `keeps`: what lies under the run's name is put aside and not written over.
    """
    from lora_training.cli.output import ProgressLine
    from lora_training.preflight import checks

    if plan.config.run.checks == "none":
        return
    progress = ProgressLine()
    try:
        found = checks.run(_job(here, plan, keeps=keeps), progress, quick=plan.config.run.checks == "quick")
    finally:
        progress.close()
    for finding in found:
        if finding.severity == "warning":
            click.echo("\n".join([f"warning: {finding.message}", *_hint(finding)]), err=True)
    _refuse([finding for finding in found if finding.severity == "error"])


def _job(here: Workspace, plan: Plan, *, keeps: bool) -> Job:
    from lora_training.preflight.finding import Job, flags

    script = str(plan.tree.path / f"{plan.config.script}.py")
    words = list(plan.spec.argv[plan.spec.argv.index(script) + 1 :])
    dataset = json.loads(plan.dataset) if plan.dataset else None
    cache = here.cache / "checked"
    return Job(plan.config.script, flags(words), dataset, plan.output, plan.spec.cwd, {**os.environ}, cache, keeps)


def _refuse(errors: Sequence[Finding]) -> None:
    if errors:
        first, *rest = errors
        more = [line for finding in rest for line in (f"also: {finding.message}", *(finding.hint or "").splitlines())]
        hint = [*(first.hint or "").splitlines(), *more]
        raise ConfigError(first.message, hint="\n".join(hint) or None)


def _hint(finding: Finding) -> list[str]:
    return [f"         {line}" for line in (finding.hint or "").splitlines()]
