"""Everything that a training needs, resolved before anything is started or written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lora_training import miniature, workspace
from lora_training.app import start_checks
from lora_training.app.targets import refuse_unfit, require_verified, targets
from lora_training.config import argv
from lora_training.config import schema as schemas
from lora_training.config.checks import Machine, check, installed_here, machine, require
from lora_training.config.checks.flags import output
from lora_training.config.checks.machine import FilesCheck
from lora_training.config.checks.view import View
from lora_training.config.loading import load
from lora_training.config.model import Config
from lora_training.config.schema import Schema
from lora_training.errors import PackageError
from lora_training.launch import gpus, spec
from lora_training.launch.spec import LaunchSpec, Processes
from lora_training.patching import lockfile
from lora_training.problems import Problem
from lora_training.runtime import bootstrap, events, registry
from lora_training.runtime.model import Start
from lora_training.runtime.patches import exact_resume, graceful_stop, provenance
from lora_training.supervise import backup, record
from lora_training.upstream import pins
from lora_training.workspace import Workspace

_UPSTREAM = "sd-scripts"
# the `assets` of `configs/smoke.toml`, which the miniature can train, too
SMOKE = "smoke"


@dataclass(frozen=True)
class Tree:
    """The source tree that trains, upstream at its pin or the miniature, and the patches of all trees in use."""

    path: Path
    commit: str
    title: str
    stacks: Mapping[str, lockfile.Stack]
    is_miniature: bool = False

    @property
    def patches(self) -> dict[str, str]:
        """The sha256 of each patch, by its name."""
        return {f"{name}/{patch.name}": patch.sha256 for name, stack in self.stacks.items() for patch in stack.patches}


@dataclass(frozen=True)
class Plan:
    """One run. `dataset` is the content of `folder/dataset.json`; `made_by` has digests of the run's inputs, by name.

    `started` are its processes; `tensorboard` is the run's own folder in upstream's `logging_dir`; `left_out` are the
    keys that are not passed on, since this machine cannot use them. `warnings` are those of the configuration's check.
    """

    config: Config
    schema: Schema
    tree: Tree
    spec: LaunchSpec
    runtime: Mapping[str, Mapping[str, Any]]
    output: Path
    dataset: Mapping[str, Any] | None
    made_by: Mapping[str, str]
    started: Processes
    tensorboard: Path | None = None
    left_out: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()

    @property
    def folder(self) -> Path:
        """The run's own folder, with its record and logs; of several machines, each has its own."""
        return _folder(self.output, self.started.machine_rank)


def make(  # noqa: PLR0913 - two callers have a line for the progress, one an earlier record
    here: Workspace,
    file: Path,
    sets: tuple[str, ...],
    *,
    write: bool,
    environ: Mapping[str, str] | None = None,
    elsewhere: bool = False,
    known: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Plan:
    """Load, check and resolve a configuration. Raises LoraError for a problem in it, the trees or the patches.

    Without `write` nothing is written, not even to the cache. `environ` is the source of overrides (default:
    `os.environ`). `elsewhere`: a machine with enough GPUs trains it, not this one. `known` is the folder of an earlier
    record (default: the run's own), which identifies the run even if it was moved since, with all that it reads. With
    `progress`, a problem is raised together with those of the files that the configuration names.
    """
    surroundings = os.environ if environ is None else environ
    config = load(file, sets=sets, environ={**surroundings, workspace.CACHE_VARIABLE: str(here.cache)})
    tree = _tree(here, config)
    files = None if elsewhere or not progress else partial(start_checks.problems, here, progress=progress, write=write)
    schema, warnings = _checked_schema(config, tree, here.cache if write else None, files, elsewhere=elsewhere)
    started = _processes(config, elsewhere=elsewhere)
    runtime = {} if tree.is_miniature else registry.chosen(config.runtime, config.script)
    dataset = argv.dataset_document(config)
    words = _words(config, schema, started.count)
    values = argv.flag_values(config, schema)
    target = output(values)
    config_digest = _config_digest((words, dataset, runtime), known or _folder(target, 0))
    made_by = {"config": config_digest, "upstream": tree.commit, "patches": lockfile.digest(tree.stacks)}
    # these keys count in `made_by`, so that the run can be resumed on a machine with a GPU, as the same run
    left_out = () if tree.is_miniature or elsewhere else machine.left_out(View(config, schema), _has_gpu)
    flags = argv.to_argv(config, schema, without=left_out)
    logs = None if tree.is_miniature else _logs(str(values.get("logging_dir", "")), target)
    if dataset:
        flags += ["--dataset_config", str(_folder(target, started.machine_rank) / "dataset.json")]
    if logs:
        flags += ["--log_prefix", f"{logs.name}/{values.get('log_prefix', '')}"]
    environment = bootstrap.environment(runtime) | _channels(target, started.machine_rank, made_by)
    launched = _launched(config, tree, flags, started, environment)
    if not elsewhere:
        _require_packages()
    if runtime:
        # before an earlier run's files are renamed
        start = Start(tuple(flags), launched.environment(os.environ))
        refuse_unfit(tree.path, registry.needed(runtime, start), here.cache / "checked" if write else None)
    return Plan(config, schema, tree, launched, runtime, target, dataset, made_by, started, logs, left_out, warnings)


def _require_packages() -> None:
    if installed_here() is None:
        hint = "`make setup` installs them; `lora train --docker` trains in a container, without them"
        raise PackageError("this environment has no training packages", hint=hint)


def _launched(
    config: Config, tree: Tree, flags: list[str], started: Processes, environment: dict[str, str]
) -> LaunchSpec:
    numbered = gpus.order(os.environ) if started.gpu_ids else {}
    launched = spec.build(
        sys.executable,
        tree.path / f"{config.script}.py",
        flags,
        processes=started,
        runtime=environment | spec.loading(allow_pickle=config.run.allow_pickle) | numbered,
        mixed_precision=str(config.values.get("mixed_precision", "no")),
        cpu_threads=config.launch.num_cpu_threads_per_process or 1,
    )
    return replace(launched, secrets=config.secrets)


def _processes(config: Config, *, elsewhere: bool) -> Processes:
    """Return the processes of the training, with a port that is free now where accelerate needs one."""
    # Slurm chooses the machines later
    launch = (
        replace(config.launch, main_process_ip=config.launch.main_process_ip or "-") if elsewhere else config.launch
    )
    found = spec.resolve(launch, lambda: spec.ANY_NUMBER if elsewhere else gpus.usable(os.environ, gpus.installed))
    if found.gpu_ids is not None and not elsewhere:
        found = replace(found, gpu_ids=gpus.chosen(found.gpu_ids, os.environ, gpus.uuids))
    if found.count == 1 or found.file_store or found.machines > 1 or found.port:
        return found
    # accelerate's own choice is one fixed port, which a second training on this machine could not use
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return replace(found, port=int(listening.getsockname()[1]))


def _words(config: Config, schema: Schema, processes: int) -> list[str]:
    """Return the script and its arguments that identify a run: without the output folder."""
    # under this name, so that states from before it was a flag stay valid
    precision = [f"mixed_precision={config.launch.mixed_precision}"] if config.launch.mixed_precision else []
    words = [config.script, *argv.to_argv(config, schema), str(processes), *precision]
    folder = argv.flag_values(config, schema).get("output_dir", "")
    return [word for word in words if word not in (folder, f"--output_dir={folder}")]


def _config_digest(inputs: Any, folder: Path) -> str:
    """Return the digest of arguments, data set and runtime patches.

    It is that of the record in `folder` if these differ only in the place to which all was moved.
    """
    found = _digest(inputs)
    known = record.read(folder)
    recorded = known.made_by.get("config") if known else None
    if known and known.began_in and found != recorded:
        before = (_digest(_with_paths(inputs, *each)) for each in _moves(folder.parent, Path(known.began_in)))
        return next((each for each in before if each == recorded), found)
    return found


def _digest(inputs: Any) -> str:
    words, dataset, runtime = inputs
    text = argv.dataset_text(dataset) if dataset else None
    return hashlib.sha256(json.dumps([words, text, runtime], sort_keys=True).encode()).hexdigest()


def _moves(now: Path, then: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each folder that may have been moved, `now` or one around it, with the path that it had before."""
    while now != then:
        yield now, then
        if now.name != then.name:
            return
        now, then = now.parent, then.parent


def _with_paths(value: Any, now: Path, then: Path) -> Any:
    """Return a value with the path `now`, and those below it, as they were at `then`."""
    if isinstance(value, str):
        return re.sub(rf"{re.escape(str(now))}(?=/|\Z)", lambda _: str(then), value)
    if isinstance(value, Mapping):
        return {key: _with_paths(each, now, then) for key, each in value.items()}
    return [_with_paths(each, now, then) for each in value] if isinstance(value, (list, tuple)) else value


def _logs(place: str, target: Path) -> Path | None:
    """Return the log folder of the run's record, or a new one in the `logging_dir` `place`; None without one."""
    if not place:
        return None
    known = record.read(target.with_suffix(".run"))
    found = Path(known.tensorboard) if known and known.tensorboard else None
    # the record may come from another program; or the logs were moved with the run
    is_own = found and (found.parent == Path(place) or not found.parent.exists())
    if found and is_own and re.fullmatch(rf"{re.escape(target.stem)}(-\d+)?", found.name):
        return Path(place) / found.name
    return backup.free_logs(Path(place), target.stem)


def _folder(target: Path, machine_rank: int) -> Path:
    return target.with_name(f"{target.stem}.machine-{machine_rank}.run") if machine_rank else target.with_suffix(".run")


def _channels(target: Path, machine_rank: int, made_by: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for communication between the training process and the supervisor, named in `runtime`."""
    # of several machines, all stop by one file, and the ranks of all save what belongs to one state
    shared = _folder(target, 0)
    return {
        events.VARIABLE: str(_folder(target, machine_rank) / record.EVENTS),
        exact_resume.RUN_FOLDER: str(shared),
        graceful_stop.VARIABLE: str(shared / record.STOP),
        provenance.VARIABLE: json.dumps(made_by, sort_keys=True),
    }


def _tree(here: Workspace, config: Config) -> Tree:
    """Return upstream, verified to be at its pin and fully patched, or the miniature for a smoke run without it."""
    upstream = here.upstream(_UPSTREAM)
    is_here = pins.head(upstream).commit is not None
    does_without = not is_here and config.run.assets == SMOKE
    checked = [target for target in targets(here) if target.name != _UPSTREAM or not does_without]
    require_verified(here, checked)
    names = {target.name for target in checked}
    stacks = {name: stack for name, stack in lockfile.read(here.patches).items() if name in names}
    if does_without:
        return Tree(Path(miniature.__file__).parent, record.NO_UPSTREAM, record.MINIATURE, stacks, is_miniature=True)
    commit = pins.pin(here, _UPSTREAM)
    return Tree(upstream.path, commit, f"{_UPSTREAM} {commit}", stacks)


def _checked_schema(
    config: Config, tree: Tree, cache: Path | None, files: FilesCheck | None, *, elsewhere: bool
) -> tuple[Schema, tuple[Problem, ...]]:
    """Return the script's schema, and the warnings of checking the configuration against it.

    If there are errors, `files` is asked for those of the files, so that all are reported at once.
    """
    if tree.is_miniature:
        # the miniature has only the smoke run's flags, and rejects others itself
        require(config, config.problems)
        return schemas.read(tree.path, config.script), ()
    schema = schemas.read(tree.path, config.script, cache=cache)
    names = tuple(registry.available())
    here = Machine(
        *(names, installed_here(), registry.problems),
        has_gpu=_has_gpu,
        loads_xformers=gpus.loads_xformers,
        trains=not elsewhere,
    )
    found = check(config, schema, here)
    if any(problem.severity == "error" for problem in found):
        found = check(config, schema, replace(here, files=files))
    require(config, found)
    return schema, found


def _has_gpu() -> bool:
    return gpus.has_one(os.environ)
