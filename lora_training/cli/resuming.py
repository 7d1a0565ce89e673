"""Which state a run goes on from: its own newest one, or the one that is named."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_training.cli import differing
from lora_training.errors import ConfigError, LoraError
from lora_training.supervise import record, states

if TYPE_CHECKING:
    from collections.abc import Callable

    from lora_training.cli.plan import Plan
    from lora_training.cli.terminal import Terminal
    from lora_training.supervise.states import State

_SHOWN, _OFFERED = 5, 3


def meant(plan: Plan, resume: str, terminal: Terminal) -> str:
    """`auto` for the state that this very run began with, once it has got further by itself; else `resume`.

    So the same command goes on where it ended, and does not begin with that state again.
    """
    from lora_training.cli import recording

    start = _start(plan)
    if resume in ("auto", "never") or start is None or start["path"] != str(_place(resume)):
        return resume
    own = states.newest(plan.output, made_by=plan.made_by)
    if own and own.step > start["step"]:
        terminal.note(f"this run began with {resume} and has got further since")
    elif recording.complete(plan) is None:
        return resume
    return "auto"


def state(plan: Plan, resume: str, terminal: Terminal) -> State | None:
    """The state to go on from. Another run's is taken only when it is named: ConfigError says so."""
    if resume == "never" or plan.tree.is_miniature:
        return None
    if resume != "auto":
        named = _named(plan, resume)
        _warn(plan, named, terminal)
        return named
    own = states.newest(plan.output, _own_alone(plan, terminal), plan.made_by)
    if own is None:
        _refuse_anothers(plan)
        return None
    if states.is_strangers(own.path, plan.output.parent):
        raise ConfigError(
            f"{own.path} was put there by another user",
            hint=f"`--resume {own.path}` goes on from it all the same; `--resume never` starts anew",
        )
    terminal.note(f"going on from step {own.step}: {own.path}")
    return own


def _named(plan: Plan, resume: str) -> State:
    try:
        return states.at(_place(resume))
    except LoraError as exc:
        there = itertools.islice(states.good(plan.output), _OFFERED)
        exc.hint = "\n".join(f"`--resume {state.path}` is one, of step {state.step}" for state in there) or exc.hint
        raise


def _refuse_anothers(plan: Plan) -> None:
    """There is none of this run's own, but one that another run, which is unfinished, would go on from."""
    known = record.read(plan.folder)
    another = states.newest(plan.output)
    if another is None or (known and known.state == "complete" and known.made_by == dict(another.made_by)):
        return
    changed = another.differences(plan.made_by)
    raise ConfigError(
        f"the unfinished run in {plan.output.parent} was made by another {' and '.join(changed)}",
        hint="\n".join(
            [
                *differing.lines(differing.changes(plan, another) or {}, _SHOWN),
                f"`--resume {another.path}` goes on from it all the same (step {another.step});",
                "`--resume never` starts anew; another output_name keeps both",
            ]
        ),
    )


def _warn(plan: Plan, named: State, terminal: Terminal) -> None:
    """Say of a state that another configuration made what differs, and what of it has no effect."""
    if "config" not in named.differences(plan.made_by):
        return
    found = differing.changes(plan, named)
    terminal.note(f"warning: another configuration made {named.path}")
    for line in (*differing.lines(found or {}, _SHOWN), *differing.from_state(found)):
        terminal.note(f"warning: {line}")


def _start(plan: Plan) -> dict[str, Any] | None:
    """What the record of this very run says that it began with."""
    known = record.read(plan.folder)
    return known.start if known and known.made_by == dict(plan.made_by) else None


def _place(resume: str) -> Path:
    # `~` is filled in where it was given: on the command line, or in the configuration
    return Path(resume).absolute()


def _own_alone(plan: Plan, terminal: Terminal) -> Callable[[Path, str], None]:
    """Says which of this run's own states are passed over, and nothing of other runs'."""

    def say(path: Path, why: str) -> None:
        if not states.is_anothers(path, plan.made_by):
            terminal.note(f"passing over {path}: {why}")

    return say
