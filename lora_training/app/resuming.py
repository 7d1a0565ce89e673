"""The choice of the state that a run resumes from: its own newest one, or a named one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lora_training import shell
from lora_training.app import compare, recording, runs
from lora_training.app.plan import Plan
from lora_training.errors import ConfigError, LoraError
from lora_training.supervise import backup, states
from lora_training.supervise.run import Watcher
from lora_training.supervise.states import State
from lora_training.workspace import Workspace

_SHOWN, _OFFERED = 5, 3
_OTHER = {"config": "another configuration", "upstream": "another commit of sd-scripts", "patches": "other patches"}
_CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# torch stores the learning rate and settings of each parameter group in the state
_FROM_STATE = re.compile(r"learning_rate|unet_lr|text_encoder_lr\w*|optimizer_\w+|.*loraplus\w*")
# the state holds the schedule's base rates and position; its shape is new if it is a function of the step
_SCHEDULE = re.compile(r"lr_\w+")


def meant(plan: Plan, resume: str, watcher: Watcher) -> str:
    """Return `auto` if this run began with the state `resume` and has saved a later one; else `resume`.

    So the same command continues where it ended, and does not begin with that state again.
    """
    start = _start(plan)
    if resume in ("auto", "never") or start is None or start["path"] != str(Path(resume).absolute()):
        return resume
    own = states.newest(plan.output, made_by=plan.made_by)
    if own and own.step > start["step"]:
        watcher.note(f"this run began with {resume} and has continued since")
    elif recording.complete(plan) is None:
        return resume
    return "auto"


def of_run(here: Workspace, name: str, note: Callable[[str], None]) -> Path | None:
    """Return the newest state of the run with that name, folder or LoRA; None if there is no such run."""
    try:
        _, run = runs.find(here, name, note=note)
    except LoraError:
        return None
    newest = states.newest(Path(run.output), made_by=run.made_by)
    if newest is None:
        raise ConfigError(
            f"the run {run.name} has no saved state to resume from", hint=f"its files are in {Path(run.output).parent}"
        )
    return newest.path


def state(plan: Plan, resume: str, watcher: Watcher, *, is_rerun: bool = False) -> State | None:
    """Return the state to resume from, None to start anew. Raises ConfigError if other runs' files are in the way.

    Another run's state is used only when it is named, or was when this run began. A rerun renames existing files.
    """
    if resume not in ("auto", "never") and plan.tree.is_miniature:
        raise ConfigError("the miniature resumes no state", hint="`lora upstream sync` brings the real sd-scripts")
    if resume == "never" or plan.tree.is_miniature:
        return None
    if resume != "auto":
        named = _named(plan, resume)
        if not is_rerun:
            _refuse_anothers(plan, named)
        _warn(plan, named, watcher)
        return named

    def passed_over(path: Path, why: str) -> None:
        if not states.is_anothers(path, plan.made_by):
            watcher.note(f"passing over {path}: {why}")

    own = states.newest(plan.output, passed_over, plan.made_by)
    if own is None and (start := _start(plan)):
        # it has not saved any state of its own yet
        own = _named(plan, start["path"])
    if own is None:
        _refuse_anothers(plan, None)
        return None
    if states.is_strangers(own.path, plan.output.parent):
        raise ConfigError(
            f"{own.path} was put there by another user",
            hint=f"{_option(own)} goes on from it all the same; `--resume never` starts anew",
        )
    watcher.note(f"continuing from step {own.step}: {own.path}")
    return own


def _named(plan: Plan, resume: str) -> State:
    try:
        # `~` was expanded earlier, on the command line or in the configuration
        return states.at(Path(resume).absolute())
    except LoraError as exc:
        there = itertools.islice(states.good(plan.output), _OFFERED)
        exc.hint = "\n".join(f"{_option(state)} is one, of step {state.step}" for state in there) or exc.hint
        raise


def _refuse_anothers(plan: Plan, named: State | None) -> None:
    """Raise ConfigError if other runs' files have this run's name, but not for smoke runs or a state of that run."""
    # of several machines, number 0 decides
    if plan.started.machine_rank or _is_smoke_run(plan) or not recording.others(plan, named):
        return
    maker = recording.maker(plan)
    if named and dict(named.made_by) in (maker, dict(plan.made_by)):
        return
    changed = [name for name in plan.made_by if maker.get(name) != plan.made_by[name]]
    keys = compare.changes(plan, plan.folder, maker) or {}
    made = f"with {' and '.join(_OTHER[name] for name in changed)}" if maker else "by something that it does not name"
    raise ConfigError(
        f"{plan.output.stem} in {plan.output.parent} was made {made}",
        hint="\n".join([*_what_differs(plan, maker, changed, keys), *_ways_out(plan, keys)]),
    )


def _is_smoke_run(plan: Plan) -> bool:
    """Return whether a configuration is one of this project's own, and not a copy of one: nobody misses its results."""
    path = plan.config.path.resolve()
    return path == _CONFIGS / "smoke.toml" or path.parent == _CONFIGS / "smoke"


def _what_differs(
    plan: Plan, maker: Mapping[str, str], changed: Iterable[str], keys: dict[str, tuple[Any, Any]]
) -> Iterator[str]:
    yield from _change_lines(keys, _SHOWN)
    for name in changed:
        if name != "config" and maker:
            yield f"{name}: {maker.get(name, 'none')[:12]} -> {plan.made_by[name][:12]}"


def _ways_out(plan: Plan, keys: Iterable[str]) -> Iterator[str]:
    another = states.newest(plan.output)
    rates = any(map(_FROM_STATE.fullmatch, keys))
    if another:
        but = ", with the rates and settings of that state" if rates else ""
        yield f"{_option(another)} goes on from it all the same (step {another.step}{but});"
    if rates and plan.output.exists():
        given = shell.quote(f"network_weights={plan.output}")
        yield f"`--set {given} --set output_name=NEW` trains that LoRA further with the new ones, as another run;"
    yield f"`--resume never` starts anew and keeps the present files as {backup.free_name(plan.output)};"
    yield "another output_name leaves it where it is"


def _warn(plan: Plan, named: State, watcher: Watcher) -> None:
    """Warn about a state of another configuration: list the differences, and those without an effect."""
    if "config" not in named.differences(plan.made_by):
        return
    found = compare.changes(plan, states.run_folder(named.path), named.made_by)
    watcher.note(f"warning: another configuration made {named.path}")
    for line in (*_change_lines(found or {}, _SHOWN), *_kept_by_state(found)):
        watcher.note(f"warning: {line}")


def _start(plan: Plan) -> dict[str, Any] | None:
    """Return the initial state in this run's record."""
    known = recording.own_record(plan)
    return known.start if known else None


def _option(state: State) -> str:
    return f"`--resume {shell.quote(str(state.path))}`"


def _change_lines(found: dict[str, tuple[Any, Any]], shown: int) -> Iterator[str]:
    """Yield `key: old -> new` for the first of them, and the number of the others."""
    for name, (then, now) in itertools.islice(found.items(), shown):
        yield f"{name}: {compare.said(then)} -> {compare.said(now)}"
    if len(found) > shown:
        yield f"and {len(found) - shown} more"


def _kept_by_state(found: dict[str, tuple[Any, Any]] | None) -> Iterator[str]:
    """Yield notes on the settings that come from a state and override those of the configuration."""
    if found is None:
        yield (
            "learning rates, optimizer settings and the base rates of the schedule come from the state and not from "
            "the configuration"
        )
        return
    rates, schedule = ([name for name in found if kind.fullmatch(name)] for kind in (_FROM_STATE, _SCHEDULE))
    if rates:
        yield f"these come from the state and not from the configuration: {', '.join(rates)}"
        yield "`--set network_weights=LORA --set output_name=NEW` trains a LoRA further with new ones"
    if schedule:
        yield (
            f"the base rates of the schedule and its place come from the state and not from the configuration; at most "
            f"its shape is new: {', '.join(schedule)}"
        )
