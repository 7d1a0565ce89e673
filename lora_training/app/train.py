"""Train a plan: check it, record it, and supervise the training to its end."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lora_training import files, proc
from lora_training.app import plan as plans
from lora_training.app import recording, resuming, start_checks, summary
from lora_training.app.plan import Plan
from lora_training.config import show
from lora_training.config.argv import dataset_text
from lora_training.config.checks import machine
from lora_training.errors import LoraError, TrainingError
from lora_training.patching import transaction
from lora_training.runtime import registry
from lora_training.runtime.patches import graceful_stop
from lora_training.supervise import backup, record, run_index, states
from lora_training.supervise import run as supervising
from lora_training.supervise.attempt import Patience
from lora_training.supervise.result import Result
from lora_training.supervise.run import Watcher
from lora_training.supervise.states import State
from lora_training.workspace import Workspace

_POLL_S = 0.05
_FOR_A_STOP = (graceful_stop.NAME, "progress")


class Detached(Exception):
    """The training continues in another process."""


@dataclass(frozen=True)
class Request:
    """A configuration file with its overrides, and the state to resume from (None: as the configuration says).

    `detach`: continue in a background process when everything has been checked. `environ` is the source of overrides
    (None: the process's own).
    """

    file: Path
    sets: tuple[str, ...] = ()
    resume: str | None = None
    detach: bool = False
    environ: Mapping[str, str] | None = None


def train(here: Workspace, request: Request, watcher: Watcher) -> tuple[Plan, Result | None]:
    """Train a configuration to its end, or find that it is complete.

    The result is None if the training continues in a background process, which returns from this call as well.
    """
    # no patch command may change the trees now: each attempt imports upstream again, partly late in the run
    with transaction.shared_lock(here):
        plan = plans.make(
            here, request.file, request.sets, write=True, environ=request.environ, progress=watcher.progress
        )
        resume = resuming.meant(plan, request.resume or plan.config.run.resume, watcher)
        try:
            return plan, run(here, plan, resume, watcher, detach=request.detach)
        except Detached:
            return plan, None


def rehearse(here: Workspace, request: Request, watcher: Watcher) -> str:
    """Return the shell command that `train` would run, and report the state to resume from as `train` would.

    Writes nothing.
    """
    with transaction.shared_lock(here):
        plan = plans.make(here, request.file, request.sets, write=False, progress=watcher.progress)
        resume = resuming.meant(plan, request.resume or plan.config.run.resume, watcher)
        _warn_of_left_out(plan, watcher)
        if resume == "auto" and recording.complete(plan):
            watcher.note("this run is complete; this is the command that would train it anew")
            state = None
        else:
            state = resuming.state(plan, resume, watcher)
        watcher.say(*summary.lines(here, plan, watcher.progress, write=False))
        return replace(plan.spec, argv=(*plan.spec.argv, *states.flags(state))).shell()


def run(
    here: Workspace,
    plan: Plan,
    resume: str,
    watcher: Watcher,
    rerun_of: Path | None = None,
    *,
    detach: bool = False,
) -> Result:
    """Finish a run, or find that it is complete; `rerun_of` is the LoRA that it repeats.

    With `detach`, a background process finishes it, and Detached is raised in this one.
    """
    if plan.tree.is_miniature:
        _warn_of_miniature(watcher)
    _warn_of_left_out(plan, watcher)
    if said := show.side_effects(plan.config, plan.schema):
        watcher.note(said)
    with files.full_disk_reported(), record.alone(plan.folder):
        make_assets(here, plan, watcher)
        _forget_earlier_stop(plan)
        done = recording.complete(plan) if resume == "auto" else None
        if done:
            _report_complete(here, plan, watcher)
            return done
        state = checked(here, plan, resume, watcher, is_rerun=rerun_of is not None)
        watcher.say(*summary.lines(here, plan, watcher.progress, write=True))
        began = {**recording.begin(here, plan, resume, state, watcher), "rerun_of": rerun_of and str(rerun_of)}
        _write(plan)
        run_index.add(here, plan.folder)
        if detach:
            _detach(plan.folder)
        # a rerun goes on from its own states
        anew = resume == "never" and rerun_of is None
        return supervising.Supervisor(replace(_supervised_run(plan), began=began, starts_anew=anew), watcher).go(state)


def _report_complete(here: Workspace, plan: Plan, watcher: Watcher) -> None:
    if record.read(plan.folder):
        # it may have been moved here
        run_index.add(here, plan.folder)
        watcher.note("this run is complete; nothing to train (`--resume never` starts anew)")
    else:
        watcher.note(
            f"nothing to train: by its metadata, {plan.output} is complete and made by the same configuration; "
            "it has no record that can be read (`--resume never` trains it anew, with one)"
        )


def checked(here: Workspace, plan: Plan, resume: str, watcher: Watcher, *, is_rerun: bool = False) -> State | None:
    """Make the checks before a start, and return the state to resume from. Raises ConfigError for a problem."""
    backup.refuse_links(plan.output)
    state = resuming.state(plan, resume, watcher, is_rerun=is_rerun)
    recording.refuse_own_work(plan)
    start_checks.check(here, plan, watcher, keeps=recording.renames_earlier(plan, resume, state))
    return state


def _forget_earlier_stop(plan: Plan) -> None:
    """Remove an old request to stop, which machine 0 removes as well, but this one may have been started before it."""
    shared = plan.output.with_suffix(".run")
    if plan.started.machine_rank and not record.is_alive(shared):
        (shared / record.STOP).unlink(missing_ok=True)


def _supervised_run(plan: Plan) -> supervising.SupervisedRun:
    settings = plan.config.run
    return supervising.SupervisedRun(
        plan.spec,
        recording.source(plan),
        plan.output,
        plan.folder,
        plan.made_by,
        settings.retries,
        Patience(stall=settings.stall_timeout),
        sees_stop_file=graceful_stop.NAME in plan.runtime,
        machine=plan.started.machine_rank,
        machines=plan.started.machines,
        lacks=tuple(name for name in _off(plan) if name in _FOR_A_STOP),
    )


def _off(plan: Plan) -> list[str]:
    return [] if plan.tree.is_miniature else registry.switched_off(plan.runtime, plan.config.script)


def _write(plan: Plan) -> None:
    """Write the data set's file for the training process, and the shell command for the user."""
    if plan.dataset:
        files.write(plan.folder / "dataset.json", dataset_text(plan.dataset))
    files.write(plan.folder / record.COMMAND, plan.spec.shell() + "\n")


def _warn_of_left_out(plan: Plan, watcher: Watcher) -> None:
    for key in plan.left_out:
        watcher.note(f"warning: {machine.sentence(key)}")
    if off := _off(plan):
        patches = f"runtime patch{'es' if off[1:] else ''} {', '.join(off)}"
        hint = f"`lora patch show runtime/{off[0]}` says what it is for"
        watcher.note(f"warning: it trains without the {patches}; {hint}")


def _warn_of_miniature(watcher: Watcher) -> None:
    watcher.say(
        "warning: sd-scripts is missing, so this run trains with the MINIATURE, a small stand-in of this project.",
        "warning: it shows that everything else works. `lora upstream sync` brings the real one.",
    )


def make_assets(here: Workspace, plan: Plan, watcher: Watcher) -> None:
    """Generate a smoke run's model and images in a child process, since that imports torch."""
    assets = plan.config.run.assets
    folder = here.cache / str(assets)
    if assets and not folder.exists():
        watcher.say(f"making a tiny model, its tokenizer and some images in {folder}")
        family = assets.partition("-")[2]
        try:
            proc.run([*proc.module("lora_training.smoke.make"), str(folder), *filter(None, [family])], cwd=here.root)
        except proc.ProcError as exc:
            last = (exc.hint or "").splitlines()[-1:]
            raise LoraError(f"cannot make {folder}", hint="; ".join(last) or None) from exc


def _detach(folder: Path) -> None:
    """Return in a background process, whose output goes to a file in the run's folder, and raise Detached in this one.

    Locks stay held until both processes have released them. Call it while there are no threads. Raises TrainingError
    if the other process ends before it has written the run's record.
    """
    with open(folder / record.BACKGROUND, "ab", opener=files.opener) as log, Path(os.devnull).open("rb") as nothing:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            for number, file in enumerate((nothing, log, log)):
                os.dup2(file.fileno(), number)
            return
    _wait_for_record(folder, pid)
    raise Detached


def _wait_for_record(folder: Path, pid: int) -> None:
    while (known := record.read(folder)) is None or known.pid != pid:
        if os.waitpid(pid, os.WNOHANG)[0]:
            raise TrainingError(
                "the background process ended at once", hint=f"its output is in {folder / record.BACKGROUND}"
            )
        time.sleep(_POLL_S)
