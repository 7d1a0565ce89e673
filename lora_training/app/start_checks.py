"""The checks before a start: their errors end `lora train`, and `lora config check` lists them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lora_training import shell
from lora_training.config import argv
from lora_training.config.checks.flags import output
from lora_training.config.model import Config
from lora_training.config.schema import Schema
from lora_training.errors import ConfigError, LoraError
from lora_training.launch import gpus, spec
from lora_training.preflight import buckets, disk, hub, images, latents, listing, weights
from lora_training.preflight.job import Job, Progress
from lora_training.problems import Problem, as_hint
from lora_training.supervise import states
from lora_training.supervise.run import Watcher
from lora_training.workspace import Workspace

if TYPE_CHECKING:
    from lora_training.app.plan import Plan


def check(here: Workspace, plan: Plan, watcher: Watcher, *, keeps: bool) -> None:
    """Print warnings about a training. Raises ConfigError for errors, all of them at once.

    `keeps`: existing files under the run's name are renamed, not overwritten.
    """
    job = job_of(here, plan.config, plan.schema, plan.spec.cwd)
    found = _run(plan.config, replace(job, keeps=keeps), watcher.progress)
    for problem in found:
        if problem.severity == "warning":
            hint = (f"         {line}" for line in (problem.hint or "").splitlines())
            watcher.say(f"warning: {problem.message}", *hint)
    if errors := [problem for problem in found if problem.severity == "error"]:
        raise ConfigError(str(errors[0]), hint=as_hint(errors) or None)


def problems(
    here: Workspace, config: Config, schema: Schema, progress: Progress, *, write: bool = True
) -> Iterator[Problem]:
    """Yield the problems that `check` and other steps of `lora train` would report for a configuration.

    Without `write`, the files found good are not listed in the cache.
    """
    yield from _processes(config)
    yield from _state(config)
    if config.run.assets and not (here.cache / config.run.assets).exists():
        return  # `lora train` makes them
    try:
        job = job_of(here, config, schema, schema.tree or Path())
    except ConfigError as exc:
        named = next((entry for entry in config.entries.values() if f"`{entry.key}`" in exc.message), None)
        yield config.problem(exc.message, named.path if named else (), hint=exc.hint)
        return
    yield from _place(config, job)
    if not opens_images():
        message = "this environment has no training packages, so no image and no cache file was opened"
        yield config.problem(message, (), hint="`make setup` brings them", severity="warning")
    # the files under the run's name are unknown here, so the space for all of them is required
    job = replace(job, keeps=True, only_looks=True, cache=job.cache if write else None)
    for problem in _run(config, job, progress):
        entry = config.entries.get(problem.key or "")
        place = entry.path if entry else ("datasets",)
        yield config.problem(problem.message, place, hint=problem.hint, severity=problem.severity)


def _run(config: Config, job: Job, progress: Progress) -> list[Problem]:
    depth = "quick" if config.run.checks == "all" and not opens_images() else config.run.checks
    try:
        found = of_files(job, progress, depth)
        brings = f"lora models fetch {shell.quote(str(config.path))}"
        return [*found, *(hub.problems(job, brings) if depth != "none" else ())]
    finally:
        progress("")


def of_files(job: Job, progress: Progress, depth: Literal["all", "quick", "none"] = "all") -> list[Problem]:
    """Return the errors and warnings about a training. Renames broken cache files; else writes only its own cache.

    `quick` skips the checks that read every image and every cache file. `none` keeps only the check of image formats,
    since PIL starts a program for some of them. `progress` is called with lines to show.
    """
    quick = depth == "quick"
    found = list(weights.problems(job)) if depth != "none" else []
    if job.on("dataset_class"):
        return [*found, *(disk.problems(job, [], []) if depth != "none" else [])]
    try:
        subsets = listing.subsets(job)
    except listing.Unreadable as exc:
        return [*found, Problem(str(exc))]
    refused = images.refused(job, subsets, progress)
    found += images.refusals(refused)
    if depth == "none":
        return found
    read, outputs = latents.used(job, subsets)
    cached = frozenset(read.values())
    if not quick:
        cached, wrong = latents.rename_broken(job, read, outputs, progress)
        found += wrong
    found += images.missing(subsets)
    if not quick:
        found += images.problems(job, subsets, cached, progress, refused)
        found += buckets.problems(job, subsets, progress)
    return [*found, *disk.problems(job, subsets, cached)]


def opens_images() -> bool:
    """Return whether the packages that open images are installed."""
    return find_spec("PIL") is not None and find_spec("numpy") is not None


def job_of(here: Workspace, config: Config, schema: Schema, cwd: Path) -> Job:
    """Return a configuration's training as the checks see it. Raises ConfigError."""
    values, dataset = argv.flag_values(config, schema), argv.dataset_document(config)
    return Job(config.script, values, dataset, output(values), cwd, {**os.environ}, here.cache / "checked")


def _processes(config: Config) -> Iterator[Problem]:
    """Yield the problems in `[launch]`; a missing GPU is a warning, since another machine may have it."""
    try:
        spec.resolve(config.launch, lambda: spec.ANY_NUMBER)
    except ConfigError as exc:
        yield config.problem(exc.message, ("launch",), hint=exc.hint)
        return
    try:
        spec.resolve(config.launch, lambda: gpus.usable(os.environ, gpus.installed))
    except ConfigError as exc:
        yield config.problem(exc.message, ("launch",), hint=exc.hint, severity="warning")


def _state(config: Config) -> Iterator[Problem]:
    """Yield the problems with the state that `[run] resume` names. That it exists is checked elsewhere."""
    folder = Path(config.run.resume)
    if config.run.resume not in ("auto", "never") and folder.exists():
        try:
            states.at(folder)
        except LoraError as exc:
            yield config.problem(exc.message, ("run", "resume"), hint=exc.hint)


def _place(config: Config, job: Job) -> Iterator[Problem]:
    """Yield a problem if the LoRA's folder is not writable."""
    folder = next(path for path in job.output.parents if path.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        entry = config.entries.get("output_dir")
        hint = "choose another output_dir, or change its permissions"
        yield config.problem(f"cannot write to {folder}", entry.path if entry else (), hint=hint)
