"""`lora train --docker`: the training in a container, with its output and exit code passed on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_training import manifest, workspace
from lora_training.errors import ConfigError, EngineError, Interrupted, TrainingError
from lora_training.launch import container as containers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lora_training.app.train import Request
    from lora_training.app.watcher import Watcher
    from lora_training.config import Config
    from lora_training.config.places import Place
    from lora_training.config.schema import Schema
    from lora_training.containers.connection import Connection
    from lora_training.containers.running import Ended, Screen
    from lora_training.launch.container import Container, Engine, Order
    from lora_training.supervise import signals
    from lora_training.workspace import Workspace

_UPSTREAM = "sd-scripts"
# the environment variables that affect a training or its network access, and hold no path of this machine
_PASSED_ON = (
    *("ACCELERATE_USE_CPU", "CUDA_VISIBLE_DEVICES", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
    *("HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN", "TRANSFORMERS_OFFLINE"),
    *("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_MODE", "WANDB_PROJECT"),
    *(name for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY") for name in (proxy, proxy.lower())),
)
_IMAGE_VARIABLE = "LORA_IMAGE"
# the exit codes of `lora` itself; any other code comes from the engine or the kernel
_OURS = frozenset({*range(7), 129, 130, 143})


@dataclass(frozen=True)
class Options:
    """Options of a training in a container; without `image`, the one that `make docker-build` builds is used."""

    image: str | None = None
    verbose: bool = False
    tty: bool = False


def rehearse(here: Workspace, request: Request, options: Options, watcher: Watcher) -> str:
    """Return the engine's shell command for this training. Writes nothing."""
    order = _order(here, request, options, write=False)
    return containers.describe(order, _caller(), _kind(watcher)).shell()


def train(here: Workspace, request: Request, options: Options, watcher: Watcher, screen: Screen) -> int:
    """Train in a container and return the exit code of the `lora` in it. Raises LoraError if it cannot be run."""
    from lora_training.app import image, mounts
    from lora_training.containers import connection

    order = _order(here, request, options, write=True)
    with connection.connected(os.environ) as engine:
        image.compare(here, engine, order.image, watcher, chosen=options.image is not None)
        if order.gpus and not engine.gives_gpus:
            raise EngineError(
                "this Podman lets the GPUs out without a word", hint="Podman 5.4 passes them on, and so does Docker"
            )
        mounts.make(order.mounts)
        _remember(here, order)
        return _run(engine, containers.describe(order, _caller(), engine.kind), screen)


def _order(here: Workspace, request: Request, options: Options, *, write: bool) -> Order:
    from lora_training import config as cfg
    from lora_training.app import mounts, plan
    from lora_training.config import places
    from lora_training.launch import gpus

    config = cfg.load(
        request.file, sets=request.sets, environ={**os.environ, workspace.CACHE_VARIABLE: str(here.cache)}
    )
    schema = _checked(here, config, write=write)
    output = plan.output(cfg.to_argv(config, schema))
    if not output.is_absolute():
        raise ConfigError(f"{config.path} says nothing of `output_dir`", hint="name the folder for the LoRA")
    resume = request.resume
    if resume not in (None, "auto", "never"):
        resume = str(Path(resume).resolve())
    if write:
        _keep(resume or config.run.resume)
    named = (*_around(config, resume), *places.places(config, schema))
    return containers.Order(
        image=options.image or containers.IMAGE,
        config=Path(os.path.normpath(config.path)),
        output=output,
        mounts=mounts.shown(named, _caches(here)),
        sets=(*(item for item in request.sets if not _is_secret(item)), *places.rewrites(config, schema)),
        resume=resume,
        verbose=options.verbose,
        env={**_environment(here), **config.secrets},
        gpus=gpus.usable(os.environ, gpus.installed) > 0,
        tty=options.tty,
        machines=config.launch.num_machines or 1,
    )


def _is_secret(item: str) -> bool:
    """Return whether an item of `--set` is a key or token, which is passed in the container's environment instead."""
    from lora_training.config import ours

    return item.partition("=")[0].strip().lstrip("-").rpartition(".")[2].replace("-", "_") in ours.SECRETS


def _checked(here: Workspace, config: Config, *, write: bool) -> Schema:
    """Return the script's schema. Raises the configuration's problems here, where its paths exist."""
    from lora_training.config import schema as schemas
    from lora_training.config.checks import Machine, check, require
    from lora_training.runtime import registry

    schema = schemas.read(here.upstream(_UPSTREAM).path, config.script, cache=here.cache if write else None)
    # the packages are those of the image, not those here
    require(config, check(config, schema, Machine(tuple(registry.available()), None, registry.problems)))
    return schema


def _keep(resume: str) -> None:
    """Mark the named state as kept here: in the container, its folder may be read-only."""
    if resume not in ("auto", "never") and manifest.read(Path(resume)):
        manifest.keep(Path(resume))


def _around(config: Config, resume: str | None) -> Iterable[Place]:
    """Yield the paths that the training reads, except those that the configuration's keys name."""
    from lora_training.config.places import Place

    yield Place("config", config.path)
    for state in (resume, config.run.resume):
        if state not in (None, "auto", "never"):
            yield Place("resume", Path(state))


def _caches(here: Workspace) -> dict[str, Path]:
    """Return the writable folders that no configuration names, by their path in the container."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    found = {_cache(here): here.cache, containers.HUB_HOME: Path(home)}
    if os.environ.get("HF_HUB_CACHE"):
        found[containers.HUB_CACHE] = Path(os.environ["HF_HUB_CACHE"])
    # `~` of an unknown user is left as it is, where pathlib would raise
    return {target: Path(os.path.expanduser(folder)).absolute() for target, folder in found.items()}  # noqa: PTH111


def _cache(here: Workspace) -> str:
    """Return the path of the cache, which is the same in the container, since a configuration may name it."""
    return os.path.normpath(here.cache)


def _environment(here: Workspace) -> dict[str, str]:
    from lora_training.config import document

    names = (*_PASSED_ON, *(override.where for override in document.from_environment(os.environ)))
    given = {name: os.environ[name] for name in names if name in os.environ}
    if os.environ.get("HF_HUB_CACHE"):
        given["HF_HUB_CACHE"] = containers.HUB_CACHE
    # the image's own hints at the next steps are only for a container that is started by hand
    return {**given, workspace.CACHE_VARIABLE: _cache(here), _IMAGE_VARIABLE: ""}


def _caller() -> containers.Caller:
    return containers.Caller(os.getuid(), os.getgid(), tuple(sorted(os.getgroups())))


def _kind(watcher: Watcher) -> Engine:
    """Return the kind of engine for a command that is only shown; an ordinary Docker if no engine answers."""
    from lora_training.containers import connection

    try:
        with connection.connected(os.environ) as engine:
            return engine.kind
    except EngineError as exc:
        watcher.note(f"{exc.message}; this is the command for an ordinary Docker")
        return containers.Engine()


def _remember(here: Workspace, order: Order) -> None:
    """Add the run to this checkout's index: the one in the container is lost with it."""
    from lora_training.supervise import run_index

    run_index.add(here, order.output.with_suffix(".run"))


def _run(engine: Connection, wanted: Container, screen: Screen) -> int:
    from lora_training.containers import running
    from lora_training.supervise import signals

    with signals.counted() as asked:
        ended = running.run(engine, wanted, screen, asked)
    return _code(ended, asked, wanted)


def _code(ended: Ended, asked: signals.Asked, wanted: Container) -> int:
    if ended.code in _OURS and not ended.out_of_memory:
        return ended.code
    hint = "the same command goes on from its last state"
    if asked.count:
        raise Interrupted("the container was killed", signum=asked.signum, hint=hint)
    why = "it ran out of memory" if ended.out_of_memory else ended.error or f"code {ended.code}"
    raise TrainingError(f"the container {wanted.name} was ended from outside: {why}", hint=hint)
