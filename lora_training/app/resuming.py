"""The choice of the state that a run resumes from: its own newest one, or a named one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_training import shell
from lora_training.app import config_diff
from lora_training.errors import ConfigError, LoraError
from lora_training.supervise import backup, record, states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from lora_training.app.plan import Plan
    from lora_training.app.watcher import Watcher
    from lora_training.supervise.states import State

_SHOWN, _OFFERED = 5, 3


def meant(plan: Plan, resume: str, watcher: Watcher) -> str:
    """Return `auto` if this run began with the state `resume` and has saved a later one; else `resume`.

    So the same command continues where it ended, and does not begin with that state again.
    """
    from lora_training.app import recording

    start = _start(plan)
    if resume in ("auto", "never") or start is None or start["path"] != str(_place(resume)):
        return resume
    own = states.newest(plan.output, made_by=plan.made_by)
    if own and own.step > start["step"]:
        watcher.note(f"this run began with {resume} and has got further since")
    elif recording.complete(plan) is None:
        return resume
    return "auto"


def state(plan: Plan, resume: str, watcher: Watcher, *, is_rerun: bool = False) -> State | None:
    """Return the state to resume from, None to start anew. Raises ConfigError if other runs' files are in the way.

    Another run's state is used only when it is named, or was when this run began. A rerun renames existing files.
    """
    if resume == "never" or plan.tree.is_miniature:
        return None
    if resume != "auto":
        named = _named(plan, resume)
        if not is_rerun:
            _refuse_anothers(plan, named)
        _warn(plan, named, watcher)
        return named
    own = states.newest(plan.output, _own_alone(plan, watcher), plan.made_by) or _begun_with(plan)
    if own is None:
        _refuse_anothers(plan, None)
        return None
    if states.is_strangers(own.path, plan.output.parent):
        raise ConfigError(
            f"{own.path} was put there by another user",
            hint=f"{_option(own)} goes on from it all the same; `--resume never` starts anew",
        )
    watcher.note(f"going on from step {own.step}: {own.path}")
    return own


def _begun_with(plan: Plan) -> State | None:
    """Return the state that this run began with, for a run that has not saved any state yet."""
    start = _start(plan)
    return _named(plan, start["path"]) if start else None


def _named(plan: Plan, resume: str) -> State:
    try:
        return states.at(_place(resume))
    except LoraError as exc:
        there = itertools.islice(states.good(plan.output), _OFFERED)
        exc.hint = "\n".join(f"{_option(state)} is one, of step {state.step}" for state in there) or exc.hint
        raise


def _refuse_anothers(plan: Plan, named: State | None) -> None:
    """Raise ConfigError if other runs' files have this run's name, but not for assets or a named state of that run."""
    from lora_training.app import recording

    if plan.config.run.assets or not recording.others(plan, named):
        return
    maker = recording.maker(plan)
    if named and dict(named.made_by) in (maker, dict(plan.made_by)):
        return
    changed = [name for name in plan.made_by if maker.get(name) != plan.made_by[name]]
    by = f"by another {' and '.join(changed)}" if maker else "by something that it does not name"
    raise ConfigError(
        f"{plan.output.stem} in {plan.output.parent} was made {by}",
        hint="\n".join([*_what_differs(plan, maker, changed), *_ways_out(plan)]),
    )


def _what_differs(plan: Plan, maker: Mapping[str, str], changed: Iterable[str]) -> Iterator[str]:
    yield from config_diff.lines(config_diff.from_record(plan, plan.folder, maker) or {}, _SHOWN)
    for name in changed:
        if name != "config" and maker:
            yield f"{name}: {maker.get(name, 'none')[:12]} -> {plan.made_by[name][:12]}"


def _ways_out(plan: Plan) -> Iterator[str]:
    another = states.newest(plan.output)
    if another:
        yield f"{_option(another)} goes on from it all the same (step {another.step});"
    yield f"`--resume never` starts anew and keeps what is there as {backup.free_name(plan.output)};"
    yield "another output_name leaves it where it is"


def _warn(plan: Plan, named: State, watcher: Watcher) -> None:
    """Warn about a state of another configuration: list the differences, and those without an effect."""
    if "config" not in named.differences(plan.made_by):
        return
    found = config_diff.changes(plan, named)
    watcher.note(f"warning: another configuration made {named.path}")
    for line in (*config_diff.lines(found or {}, _SHOWN), *config_diff.from_state(found)):
        watcher.note(f"warning: {line}")


def _start(plan: Plan) -> dict[str, Any] | None:
    """Return the initial state in this run's record."""
    known = record.read(plan.folder)
    return known.start if known and known.made_by == dict(plan.made_by) else None


def _option(state: State) -> str:
    return f"`--resume {shell.quote(str(state.path))}`"


def _place(resume: str) -> Path:
    # `~` was expanded earlier, on the command line or in the configuration
    return Path(resume).absolute()


def _own_alone(plan: Plan, watcher: Watcher) -> Callable[[Path, str], None]:
    """Return a callback that reports only this run's own states that are passed over."""

    def say(path: Path, why: str) -> None:
        if not states.is_anothers(path, plan.made_by):
            watcher.note(f"passing over {path}: {why}")

    return say
