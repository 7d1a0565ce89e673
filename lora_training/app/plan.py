"""Everything that a training needs, resolved before anything is started or written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_training import workspace
from lora_training.errors import ConfigError, PatchError, UpstreamError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lora_training.config import Config
    from lora_training.config.schema import Schema
    from lora_training.launch.spec import LaunchSpec, Processes
    from lora_training.patching.series import Target
    from lora_training.workspace import Workspace

_UPSTREAM = "sd-scripts"
# the only value of `assets`: the generated files that `configs/smoke.toml` trains on
SMOKE = "smoke"


@dataclass(frozen=True)
class Tree:
    """The source tree that trains: upstream at its pin with its patches, or the miniature."""

    path: Path
    commit: str
    title: str
    patches: tuple[str, ...] = ()
    is_miniature: bool = False


@dataclass(frozen=True)
class Plan:
    """One run. `dataset` is the content of `folder/dataset.json`; `made_by` has digests of the run's inputs, by name.

    `processes` is the number of training processes, on all machines; `tensorboard` is the run's own folder in
    upstream's `logging_dir`; `left_out` are the keys that are not passed on, since this machine cannot use them.
    """

    config: Config
    schema: Schema
    tree: Tree
    spec: LaunchSpec
    runtime: Mapping[str, Mapping[str, Any]]
    output: Path
    dataset: Mapping[str, Any] | None
    made_by: Mapping[str, str]
    processes: int = 1
    tensorboard: Path | None = None
    left_out: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The run's own folder, with its record and logs."""
        return self.output.with_suffix(".run")


def make(
    here: Workspace,
    file: Path,
    sets: tuple[str, ...],
    *,
    write: bool,
    environ: Mapping[str, str] | None = None,
) -> Plan:
    """Load, check and resolve a configuration. Raises LoraError for a problem in it, the trees or the patches.

    Without `write` nothing is written, not even to the cache. `environ` is the source of overrides (default:
    `os.environ`).
    """
    from lora_training import config as cfg
    from lora_training.launch import spec
    from lora_training.runtime import bootstrap

    surroundings = os.environ if environ is None else environ
    config = cfg.load(file, sets=sets, environ={**surroundings, workspace.CACHE_VARIABLE: str(here.cache)})
    processes = _processes(config)
    tree = _tree(here, config)
    schema = _checked_schema(config, tree, here.cache if write else None)
    runtime = _runtime(config, tree)
    dataset = cfg.dataset_document(config)
    flags = cfg.to_argv(config, schema)
    # in `made_by` under this name, so that states from before it was a flag stay valid
    launch = [f"mixed_precision={config.launch.mixed_precision}"] if config.launch.mixed_precision else []
    made_by = _made_by(here, tree, [config.script, *flags, str(processes.count), *launch], dataset, runtime)
    left_out = _left_out(config, schema, tree)
    flags = cfg.to_argv(config, schema, without=left_out)
    target = output(flags)
    folder = target.with_suffix(".run")
    if dataset:
        flags += ["--dataset_config", str(folder / "dataset.json")]
    logs = None if tree.is_miniature else _logs(flags, target)
    if logs:
        flags += ["--log_prefix", f"{logs.name}/{_value(flags, 'log_prefix', '')}"]
    given = bootstrap.environment(runtime) | _channels(folder, made_by)
    given |= spec.loading(allow_pickle=config.run.allow_pickle)
    launched = replace(_launched(config, tree, flags, processes, given), secrets=config.secrets)
    if runtime:
        _check_runtime(tree, runtime, launched, flags, here.cache / "checked" if write else None)
    return Plan(config, schema, tree, launched, runtime, target, dataset, made_by, processes.count, logs, left_out)


def _launched(
    config: Config, tree: Tree, flags: list[str], processes: Processes, environment: Mapping[str, str]
) -> LaunchSpec:
    from lora_training.launch import spec

    return spec.build(
        sys.executable,
        tree.path / f"{config.script}.py",
        flags,
        processes=processes,
        runtime=environment,
        mixed_precision=str(config.values.get("mixed_precision", "no")),
        cpu_threads=config.launch.num_cpu_threads_per_process or 1,
    )


def _processes(config: Config) -> Processes:
    """Return the processes of the training, with a port that is free now where accelerate needs one."""
    from lora_training.launch import gpus, spec

    found = spec.resolve(config.launch, lambda: gpus.usable(os.environ, gpus.installed))
    if found.count == 1 or found.file_store or found.machines > 1 or found.port:
        return found
    # accelerate's own choice is one fixed port, which a second training on this machine could not use
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return replace(found, port=int(listening.getsockname()[1]))


def _made_by(
    here: Workspace, tree: Tree, flags: list[str], dataset: Mapping[str, Any] | None, runtime: Mapping[str, Any]
) -> dict[str, str]:
    """Return digests of a run's inputs. The output folder does not count."""
    from lora_training.config import dataset_text
    from lora_training.patching import lockfile

    place = _value(flags, "output_dir", "")
    what = [word for word in flags if word not in (place, f"--output_dir={place}")]
    text = dataset_text(dataset) if dataset else None
    config = json.dumps([what, text, runtime], sort_keys=True).encode()
    return {
        "config": hashlib.sha256(config).hexdigest(),
        "upstream": tree.commit,
        "patches": lockfile.digest(here.patches),
    }


def _logs(flags: list[str], target: Path) -> Path | None:
    """Return the log folder of the run's record, or a new one in `logging_dir`; None without a `logging_dir`."""
    from lora_training.supervise import backup, record

    if not (place := _value(flags, "logging_dir", "")):
        return None
    known = record.read(target.with_suffix(".run"))
    found = Path(known.tensorboard) if known and known.tensorboard else None
    # the record may come from another program
    if found and found.parent == Path(place) and re.fullmatch(rf"{re.escape(target.stem)}(-\d+)?", found.name):
        return found
    return backup.free_logs(Path(place), target.stem)


def _channels(folder: Path, made_by: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for communication between the training process and the supervisor, named in `runtime`."""
    from lora_training.runtime import events
    from lora_training.runtime.patches import exact_resume, graceful_stop, provenance
    from lora_training.supervise import record

    return {
        events.VARIABLE: str(folder / record.EVENTS),
        exact_resume.RUN_FOLDER: str(folder),
        graceful_stop.VARIABLE: str(folder / record.STOP),
        provenance.VARIABLE: json.dumps(made_by, sort_keys=True),
    }


def _tree(here: Workspace, config: Config) -> Tree:
    """Return upstream, verified to be at its pin and fully patched, or the miniature for a smoke run without it."""
    from lora_training import miniature
    from lora_training.app.targets import targets
    from lora_training.patching import verify
    from lora_training.upstream import pins

    upstream = here.upstream(_UPSTREAM)
    is_here = pins.head(upstream).commit is not None
    if not is_here and config.run.assets != SMOKE:
        raise UpstreamError(
            f"{_UPSTREAM} is not there: {upstream.path}",
            hint=f"`lora upstream sync` brings it from {upstream.url}; README, Mirrors, where that is out of reach",
        )
    checked = [target for target in targets(here) if is_here or target.name != _UPSTREAM]
    problems = verify.trees(here, checked).problems
    if problems:
        raise PatchError("the source trees failed verification", hint="\n".join(verify.lines(problems)))
    patches = tuple(f"{target.name}/{name}" for target in checked for name in _series(target))
    if not is_here:
        folder = Path(miniature.__file__).parent
        return Tree(folder, "none", "the miniature (NOT sd-scripts)", patches, is_miniature=True)
    commit = pins.pin(here, _UPSTREAM)
    return Tree(upstream.path, commit, f"{_UPSTREAM} {commit}", patches)


def _checked_schema(config: Config, tree: Tree, cache: Path | None) -> Schema:
    """Return the script's schema, after checking the configuration against it."""
    from lora_training.config import schema as schemas
    from lora_training.config.checks import Machine, check, installed_here, require
    from lora_training.runtime import registry

    if tree.is_miniature:
        # the miniature has only the smoke run's flags, and rejects others itself
        require(config, config.problems)
        return schemas.read(tree.path, config.script)
    schema = schemas.read(tree.path, config.script, cache=cache)
    names = tuple(registry.available())
    machine = Machine(names, installed_here(), registry.problems, has_gpu=_has_gpu, trains=True)
    require(config, check(config, schema, machine))
    return schema


def _has_gpu() -> bool:
    from lora_training.launch import gpus

    return gpus.has_one(os.environ)


def _left_out(config: Config, schema: Schema, tree: Tree) -> tuple[str, ...]:
    """Return the keys that this machine cannot use and that are not passed on, though they count in `made_by`.

    So the run can be resumed on a machine with a GPU, as the same run: a block swap only decides where weights are
    stored, and the device does not identify a run either.
    """
    from lora_training.config.checks import machine
    from lora_training.config.checks.view import View

    return () if tree.is_miniature else machine.left_out(View(config, schema), _has_gpu)


def _series(target: Target) -> tuple[str, ...]:
    from lora_training.patching import series

    return tuple(name.removesuffix(".patch") for name in series.names(target.patches))


def _runtime(config: Config, tree: Tree) -> dict[str, dict[str, Any]]:
    """Return the runtime patches that are switched on, with their settings."""
    from lora_training.runtime import registry

    return {} if tree.is_miniature else registry.chosen(config.runtime)


def _check_runtime(
    tree: Tree, runtime: Mapping[str, Any], launched: LaunchSpec, flags: list[str], cache: Path | None
) -> None:
    """Raise PatchError for an unfit runtime patch before an earlier run's files are renamed."""
    from lora_training.app.targets import refuse_unfit
    from lora_training.runtime import registry
    from lora_training.runtime.model import Start

    start = Start(tuple(flags), {**os.environ, **launched.env})
    refuse_unfit(tree.path, registry.needed(runtime, start), cache)


def output(flags: list[str]) -> Path:
    """Return the file that upstream writes at the end; `last` and `safetensors` are its defaults."""
    from lora_training.config.checks import naming

    name, form = _value(flags, "output_name", "last"), _value(flags, "save_model_as", "safetensors")
    if wrong := naming.reason(name):
        raise ConfigError(f"`output_name` cannot be {naming.shown(name)}", hint=wrong)
    if form != "safetensors":
        raise ConfigError(
            f"`save_model_as` cannot be {form!r}", hint="what was trained is checked at the end; that takes safetensors"
        )
    return Path(_value(flags, "output_dir", "")) / f"{name}.{form}"


def _value(flags: list[str], name: str, default: str) -> str:
    """Return the value of a flag: the next word, or the text after its own `=`."""
    joined = (flag.partition("=")[2] for flag in flags if flag.startswith(f"--{name}="))
    return next((after for flag, after in pairwise(flags) if flag == f"--{name}"), next(joined, default))
