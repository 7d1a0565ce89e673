"""The queue: add configurations as jobs, and train one after the other, each exactly as `lora train` does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_training import errors, files, shell
from lora_training.app import plan as plans
from lora_training.app import recording, resuming, slurm, train
from lora_training.app.plan import Plan
from lora_training.config.loading import load
from lora_training.errors import ConfigError, LoraError
from lora_training.launch import gpus as launch_gpus
from lora_training.patching import transaction
from lora_training.supervise import jobs, record
from lora_training.supervise.jobs import Job
from lora_training.supervise.run import Watcher
from lora_training.workspace import Workspace

Watching = Callable[[], AbstractContextManager[Watcher]]

_POLL_S = 2.0
# errors that would end every other job as well
_NOT_THE_JOBS_FAULT = (errors.UpstreamError, errors.EngineError, errors.SlurmError, errors.PatchError)


@dataclass(frozen=True)
class Wanted:
    """What to add. `sbatch` has options of `sbatch` for jobs that are submitted to Slurm, and is None for others."""

    paths: Sequence[Path]
    sets: tuple[str, ...] = ()
    resume: str | None = None
    sbatch: tuple[str, ...] | None = None


def add(here: Workspace, wanted: Wanted, watcher: Watcher) -> list[dict[str, Any]]:
    """Add a job for each configuration, or none if one of them is wrong. A complete run is not added."""
    with transaction.shared_lock(here):
        made = [found for path in wanted.paths if (found := _checked(here, path, wanted, watcher))]
    with jobs.locked(here.queue):
        _refuse_same_output([job for job, _ in made], jobs.read(here.queue))
        added = [_put(here, job, text) for job, text in made]
    return _shown(here, added)


def rehearse(here: Workspace, path: Path, wanted: Wanted) -> str:
    """Return the command that would submit a configuration to Slurm, as a shell line. Writes nothing."""
    plan = plans.make(here, path, wanted.sets, write=False, elsewhere=True)
    needed = slurm.needs(plan.config.launch, wanted.sbatch or ())
    return shell.join(slurm.command(here, _job(plan, wanted), needed))


def _put(here: Workspace, new: Job, text: str) -> Job:
    """Put a job into the queue and submit it, if it is for Slurm; one that Slurm refuses is removed again."""
    job = jobs.put(here.queue, new, text)
    try:
        return job.save(slurm=_submit(here, job))
    except BaseException:
        jobs.remove(job)
        raise


def _submit(here: Workspace, job: Job) -> str | None:
    """Submit a job that is for Slurm and return its number there. Hold the lock, which its worker waits for."""
    if job.sbatch is None:
        return None
    return slurm.submit(here, job, slurm.needs(load(job.config, environ={}).launch, job.sbatch))


def _checked(here: Workspace, path: Path, wanted: Wanted, watcher: Watcher) -> tuple[Job, str] | None:
    """Return a job and its complete configuration, after the checks of `lora train`; None for a complete run."""
    elsewhere = wanted.sbatch is not None
    plan = plans.make(here, path, wanted.sets, write=True, elsewhere=elsewhere, progress=watcher.progress)
    if wanted.sbatch is not None:
        slurm.needs(plan.config.launch, wanted.sbatch)
    if "never" in (wanted.resume, plan.config.run.resume):
        hint = "choose another output_name, and leave `resume` out: a job continues from its own newest state"
        raise ConfigError(f'{path}: a job of the queue cannot have `resume = "never"`', hint=hint)
    resume = resuming.meant(plan, wanted.resume or plan.config.run.resume, watcher)
    if resume == "auto" and recording.complete(plan):
        watcher.note(f"{path}: {plan.output} is complete, so nothing is added")
        return None
    train.make_assets(here, plan, watcher)
    train.checked(here, plan, resume, watcher)
    for variable in plan.config.secrets:
        watcher.note(f"warning: keys and tokens are not kept in the queue; set {variable} where the worker runs")
    return _job(plan, wanted), recording.resolved(plan, keeps_auto=True)


def _job(plan: Plan, wanted: Wanted) -> Job:
    named = wanted.resume or plan.config.run.resume
    state = None if named == "auto" else named
    source, output = str(plan.config.path), str(plan.output)
    return Job(Path(plan.output.stem), source, output, time.time(), state, sbatch=wanted.sbatch)


def _refuse_same_output(new: Sequence[Job], there: Iterable[Job]) -> None:
    taken = {job.output: f"the job {job.folder.name}" for job in there if job.state != "done"}
    for job in new:
        if job.output in taken:
            message = f"{job.source}: {taken[job.output]} trains {job.output} already"
            raise ConfigError(message, hint="give each its own output_name; nothing has been added")
        taken[job.output] = job.source


def show(here: Workspace) -> list[dict[str, Any]]:
    """Return the jobs in their order, for JSON. A job that was running when its worker died is `interrupted`."""
    return _shown(here, jobs.read(here.queue))


def _shown(here: Workspace, found: Sequence[Job]) -> list[dict[str, Any]]:
    known = slurm.states(found)
    with jobs.shown(here.queue):
        return [_document(job, known) for job in found]


def _document(job: Job, slurms: Mapping[str, str]) -> dict[str, Any]:
    state, why = job.state, job.why
    if state == "running" and not job.is_held:
        state = "interrupted"
    if job.slurm and state in ("waiting", "interrupted"):
        why = slurms[job.slurm]
    return {
        "id": job.folder.name,
        "name": job.name,
        "state": state,
        "why": why,
        "source": job.source,
        "config": str(job.config),
        "output": job.output,
        "folder": str(Path(job.output).with_suffix(".run")),
        "added": job.added,
        "slurm": job.slurm,
    }


def move(here: Workspace, name: str, before: str | None) -> dict[str, Any]:
    """Move a job to the place before another one, or to the end."""
    with jobs.locked(here.queue):
        job = _idle(here, name)
        if job.slurm:
            raise LoraError(f"Slurm orders {job.folder.name}", hint=f"`scontrol top {job.slurm}` has it begin earlier")
        follower = jobs.find(here.queue, before) if before else None
        if follower == job:
            raise LoraError(f"{job.folder.name} cannot be moved before itself", hint="name another job, or give --last")
        moved = jobs.move(here.queue, job, follower)
    return _shown(here, [moved])[0]


def remove(here: Workspace, names: Sequence[str], *, done: bool = False) -> list[str]:
    """Remove jobs, and with `done` every job that is done; return them. Nothing that was trained is removed."""
    with jobs.locked(here.queue):
        found = dict.fromkeys(_idle(here, name) for name in names)
        found |= dict.fromkeys(job for job in jobs.read(here.queue) if done and job.state == "done")
        for job in found:
            _leave_slurm(job)
            jobs.remove(job)
    return [job.folder.name for job in found]


def pause(here: Workspace, names: Sequence[str]) -> list[dict[str, Any]]:
    """Pause jobs, or without names all that wait. One that is trained now saves its state first."""
    with jobs.locked(here.queue):
        named = [jobs.find(here.queue, name) for name in names]
        found = named or [job for job in jobs.read(here.queue) if job.state == "waiting"]
        paused = [_pause(job) for job in found]
    return _shown(here, paused)


def _pause(job: Job) -> Job:
    if job.is_held:
        folder = Path(job.output).with_suffix(".run")
        if not record.is_alive(folder):
            hint = "give the command again in a moment"
            raise LoraError(f"{job.folder.name} is being checked, and cannot be stopped before it trains", hint=hint)
        # its worker notes the pause when the training has ended
        files.touch(folder / record.STOP)
        return job
    if job.state in ("failed", "done"):
        raise LoraError(f"{job.folder.name} is {job.state}, so there is nothing to pause")
    _leave_slurm(job)
    return job.save(state="paused", slurm=None)


def _leave_slurm(job: Job) -> None:
    if job.slurm and job.state in ("waiting", "running"):
        slurm.cancel(job.slurm)


def resume(here: Workspace, names: Sequence[str]) -> list[dict[str, Any]]:
    """Have paused and failed jobs wait for a worker again, or without names all paused ones."""
    with jobs.locked(here.queue):
        named = [_idle(here, name) for name in names]
        for job in named:
            if job.state == "done":
                raise LoraError(f"{job.folder.name} is done", hint="`lora queue add` adds it again under another name")
        found = named or [job for job in jobs.read(here.queue) if job.state == "paused"]
        for job in found:
            _leave_slurm(job)
        again = [job.save(state="waiting", slurm=_submit(here, job)) for job in found]
    return _shown(here, again)


def _idle(here: Workspace, name: str) -> Job:
    """Return a job that no worker holds."""
    job = jobs.find(here.queue, name)
    if job.is_held:
        hint = f"`lora queue pause {shell.quote(job.folder.name)}` stops it"
        raise LoraError(f"{job.folder.name} is being trained", hint=hint)
    return job


def work(
    here: Workspace,
    watching: Watching,
    names: Sequence[str] = (),
    *,
    gpus: str | None = None,
    waits: bool = False,
) -> list[Job]:
    """Train the jobs of the queue, or those of these names, until none is left; return them as they are then.

    With `waits`, wait for more of them then. Errors that are no job's fault, such as a missing upstream, are raised.
    """
    if gpus is not None:
        ids = tuple(int(each) if each.isdecimal() else each for each in map(str.strip, gpus.split(",")) if each)
        visible = ",".join(launch_gpus.chosen(ids, os.environ, launch_gpus.uuids))
        os.environ |= launch_gpus.order(os.environ) | {"CUDA_VISIBLE_DEVICES": visible}
    ended: list[Job] = []
    with slurm.requeued():
        if slurm.machine():
            return [_joined(here, names[0], watching)]
        with jobs.shown(here.queue):
            # what stays the same when another job is moved or removed meanwhile
            outputs = {jobs.find(here.queue, name).output for name in names}
        while (job := _next(here, outputs, watching)) or waits:
            if job:
                ended.append(job)
            else:
                time.sleep(_POLL_S)
    return ended


def _next(here: Workspace, outputs: Collection[str], watching: Watching) -> Job | None:
    """Train the next job, if there is one, and return it."""
    with ExitStack() as held:
        job = _take(here, outputs, held)
        if job is None:
            return None
        with watching() as watcher:
            return _train(here, job, watcher)


def _joined(here: Workspace, name: str, watching: Watching) -> Job:
    """Train a job as another machine than number 0, which holds it and notes what becomes of it."""
    with jobs.shown(here.queue):
        job = jobs.find(here.queue, name)
    if job.state in ("waiting", "running"):
        with watching() as watcher:
            train.train(here, _request(job), watcher)
    return job


def _request(job: Job) -> train.Request:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LORA_")}
    sets = slurm.rendezvous(load(job.config, environ={}).launch)
    return train.Request(job.config, sets, job.resume, environ=environ)


def _take(here: Workspace, outputs: Collection[str], held: ExitStack) -> Job | None:
    """Return the next job, of `outputs` if there are any, held until the end of `held`: an interrupted one first."""
    with jobs.locked(here.queue):
        found = [job for job in jobs.read(here.queue) if (job.output in outputs if outputs else job.sbatch is None)]
        # a job that is held is being trained by another worker; without a holder, none of these is running
        due = [job for state in ("running", "waiting") for job in found if job.state == state and not job.is_held]
        if not due:
            return None
        held.enter_context(record.alone(due[0].folder))
        return due[0].save(state="running")


def _train(here: Workspace, job: Job, watcher: Watcher) -> Job:
    """Train a job and return it with what became of it."""
    watcher.note(f"job {job.folder.name}: {job.source}")
    try:
        _, result = train.train(here, _request(job), watcher)
    except errors.Interrupted as exc:
        fruitless = slurm.fruitless(exc)
        if exc.by_signal and not fruitless:
            # the job stays as it is, and the next worker continues it
            raise
        return job.save(state="paused", why=fruitless or exc.message)
    except errors.MachineLost as exc:
        if slurm.is_in_job():
            raise
        return job.save(state="failed", why=exc.message)
    except _NOT_THE_JOBS_FAULT:
        job.save(state="waiting")
        raise
    except (LoraError, OSError) as exc:
        why = "\n".join(filter(None, (str(exc), getattr(exc, "hint", None))))
        for line in f"job {job.folder.name} failed: {why}".splitlines():
            watcher.note(line)
        return job.save(state="failed", why=why)
    except Exception as exc:
        # a bug: this job must not be the next worker's first one as well
        job.save(state="failed", why=repr(exc))
        raise
    watcher.note(f"job {job.folder.name} is done: {result and result.path}")
    return job.save(state="done")
