"""`lora train --docker`: the image and the mounts of a container, and the training in it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lora_training import files, git_process, manifest, workspace
from lora_training.app.train import Request
from lora_training.config import argv, loading, paths, tables
from lora_training.config import files as named_files
from lora_training.config import schema as schemas
from lora_training.config.checks import Machine, check, require
from lora_training.config.checks.flags import output as output_of
from lora_training.config.files import NamedPath
from lora_training.config.model import Config
from lora_training.config.schema import Schema
from lora_training.containers import connection, running
from lora_training.containers.connection import Connection
from lora_training.containers.running import Ended, Screen
from lora_training.errors import ConfigError, EngineError, Interrupted, TrainingError
from lora_training.launch import container as containers
from lora_training.launch import gpus
from lora_training.launch.container import Container, ContainerRun, Engine, Mount, is_refused, merged
from lora_training.patching import lockfile
from lora_training.runtime import registry
from lora_training.supervise import run_index, signals
from lora_training.supervise.run import Watcher
from lora_training.upstream import pins
from lora_training.workspace import Workspace

# the labels that the Dockerfile sets
_REVISION = "org.opencontainers.image.revision"
_PATCHES = "lora.patches.sha256"
_PIN = "lora.pin."
_UPSTREAM = "sd-scripts"
# the environment variables that affect a training or its network access, and hold no path of this machine
_PASSED_ON = (
    *("ACCELERATE_USE_CPU", "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES"),
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
    *("HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN", "TRANSFORMERS_OFFLINE"),
    *("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_MODE", "WANDB_PROJECT"),
    *(name for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY") for name in (proxy, proxy.lower())),
)
_IMAGE_VARIABLE = "LORA_IMAGE"
# the longest chain of links that is followed
_HOPS = 40
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
    run = _container_run(here, request, options, write=False)
    return containers.describe(run, _caller(), _kind(watcher)).shell()


def train(here: Workspace, request: Request, options: Options, watcher: Watcher, screen: Screen) -> int:
    """Train in a container and return the exit code of the `lora` in it. Raises LoraError if it cannot be run."""
    run = _container_run(here, request, options, write=True)
    with connection.connected(os.environ) as engine:
        _compare_image(here, engine, run.image, watcher, chosen=options.image is not None)
        if run.gpus and not engine.gives_gpus:
            raise EngineError(
                "this Podman ignores the request for GPUs", hint="Podman 5.4 passes them on, and so does Docker"
            )
        make_folders(run.mounts)
        # the index of the checkout in the container is lost with it
        run_index.add(here, run.output.with_suffix(".run"))
        wanted = containers.describe(run, _caller(), engine.kind)
        with signals.counted() as asked:
            ended = running.run(engine, wanted, screen, asked)
    return _code(ended, asked, wanted)


def _container_run(here: Workspace, request: Request, options: Options, *, write: bool) -> ContainerRun:
    config = loading.load(
        request.file, sets=request.sets, environ={**os.environ, workspace.CACHE_VARIABLE: str(here.cache)}
    )
    schema = _checked(here, config, write=write)
    output = output_of(argv.flag_values(config, schema))
    if not output.is_absolute():
        raise ConfigError(f"{config.path} has no `output_dir`", hint="name the folder for the LoRA")
    resume = request.resume
    if resume not in (None, "auto", "never"):
        resume = str(Path(resume).resolve())
    chosen = resume or config.run.resume
    if write and chosen not in ("auto", "never") and manifest.read(Path(chosen)):
        # in the container, its folder may be read-only
        manifest.keep(Path(chosen))
    states = [state for state in (resume, config.run.resume) if state not in (None, "auto", "never")]
    reads = [NamedPath("config", config.path), *(NamedPath("resume", Path(state)) for state in states)]
    named = (*reads, *named_files.named_paths(config, schema))
    return containers.ContainerRun(
        image=options.image or containers.IMAGE,
        config=Path(os.path.normpath(config.path)),
        output=output,
        mounts=mounts_of(named, _caches(here)),
        sets=(*(item for item in request.sets if not _is_secret(item)), *named_files.expanded_sets(config, schema)),
        resume=resume,
        verbose=options.verbose,
        env={**_environment(here), **config.secrets},
        gpus=gpus.usable(os.environ, gpus.installed) > 0,
        tty=options.tty,
        machines=config.launch.num_machines or 1,
    )


def _is_secret(item: str) -> bool:
    """Return whether an item of `--set` is a key or token, which is passed in the container's environment instead."""
    return item.partition("=")[0].strip().lstrip("-").rpartition(".")[2].replace("-", "_") in tables.SECRETS


def _checked(here: Workspace, config: Config, *, write: bool) -> Schema:
    """Return the script's schema. Raises the configuration's problems here, where its paths exist."""
    schema = schemas.read(here.upstream(_UPSTREAM).path, config.script, cache=here.cache if write else None)
    # the packages are those of the image, not those here
    require(config, check(config, schema, Machine(tuple(registry.available()), None, registry.problems)))
    return schema


def _caches(here: Workspace) -> dict[str, Path]:
    """Return the writable folders that no configuration names, by their path in the container."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    # a configuration may name the cache, so that it has the same path in the container
    found = {os.path.normpath(here.cache): here.cache, containers.HUB_HOME: Path(home)}
    if os.environ.get("HF_HUB_CACHE"):
        found[containers.HUB_CACHE] = Path(os.environ["HF_HUB_CACHE"])
    return {target: files.expanded(folder) for target, folder in found.items()}


def _environment(here: Workspace) -> dict[str, str]:
    names = (*_PASSED_ON, *(override.where for override in loading.from_environment(os.environ)))
    given = {name: os.environ[name] for name in names if name in os.environ}
    if os.environ.get("HF_HUB_CACHE"):
        given["HF_HUB_CACHE"] = containers.HUB_CACHE
    # the image's own hints at the next steps are only for a container that is started by hand
    return {**given, workspace.CACHE_VARIABLE: os.path.normpath(here.cache), _IMAGE_VARIABLE: ""}


def _caller() -> containers.Caller:
    return containers.Caller(os.getuid(), os.getgid(), tuple(sorted(os.getgroups())))


def _kind(watcher: Watcher) -> Engine:
    """Return the kind of engine for a command that is only shown; an ordinary Docker if no engine answers."""
    try:
        with connection.connected(os.environ) as engine:
            return engine.kind
    except EngineError as exc:
        watcher.note(f"{exc.message}; this is the command for an ordinary Docker")
        return containers.Engine()


def _code(ended: Ended, asked: signals.Asked, wanted: Container) -> int:
    if ended.code in _OURS and not ended.out_of_memory:
        return ended.code
    hint = "the same command goes on from its last state"
    if asked.count:
        raise Interrupted("the container was killed", signum=asked.signum, hint=hint)
    why = "it ran out of memory" if ended.out_of_memory else ended.error or f"code {ended.code}"
    raise TrainingError(f"the container {wanted.name} was killed: {why}", hint=hint)


def mounts_of(places: Iterable[NamedPath], caches: Mapping[str, Path]) -> tuple[Mount, ...]:
    """Return the mounts for `places` that exist or will be created, and for `caches` (by their path in the container).

    Writes nothing. Raises ConfigError as `launch.container.merged`.
    """
    there = [place for place in places if place.made or paths.exists(place.folder)]
    mounts = [_mount(cache, target, writable=True) for target, cache in caches.items()]
    mounts += [_mount(place.folder, str(place.folder), writable=place.written) for place in there]
    mounts += [extra for place in there if not place.made for extra in _links(place.folder, tuple(mounts))]
    return merged(mounts)


def make_folders(mounts: Iterable[Mount]) -> None:
    """Create the writable folders: an engine would create them as root, if at all.

    A folder inside another mount is not mounted, and so left to the training, for which a missing folder may mean that
    its content has to be generated. Raises ConfigError for one that cannot be created.
    """
    for mount in mounts:
        if mount.writable:
            try:
                Path(mount.source).mkdir(parents=True, exist_ok=True)
            except OSError as exc:
                hint = "choose another, or change its permissions"
                raise ConfigError(f"cannot make {mount.source}: {exc.strerror}", hint=hint) from exc


def _mount(path: Path, target: str, *, writable: bool) -> Mount:
    # `..` is resolved in the text, as in `config.paths`: the container does not have the folders in between
    return Mount(os.path.realpath(path), os.path.normpath(target), writable)


def _links(folder: Path, mounts: tuple[Mount, ...]) -> Iterator[Mount]:
    """Yield mounts for the targets of symbolic links in an input, where they are not mounted yet."""
    real = Path(os.path.realpath(folder))
    for parent, folders, names in os.walk(real):
        for name in (*folders, *names):
            link = Path(parent, name)
            if link.is_symlink():
                yield from _led_to(link, folder / link.relative_to(real), mounts)


def _led_to(link: Path, seen: Path, mounts: tuple[Mount, ...]) -> Iterator[Mount]:
    """Yield mounts for each hop of `link`, whose path in the container is `seen`. Broken links are left as they are."""
    for _ in range(_HOPS):
        if not (link.is_symlink() and link.exists()):
            return
        step = os.readlink(link)  # noqa: PTH115 - the text as it stands
        link, seen = Path(os.path.realpath(link.parent), step), Path(os.path.normpath(seen.parent / step))
        if any(seen.is_relative_to(mount.target) for mount in mounts):
            continue
        # mount its folder once, not each of a thousand images, unless the image has a folder of that name itself
        alone = link.is_dir() or is_refused(str(seen.parent))
        yield _mount(link if alone else link.parent, str(seen if alone else seen.parent), writable=False)


def _compare_image(here: Workspace, engine: Connection, image: str, watcher: Watcher, *, chosen: bool) -> None:
    """Compare the image with this checkout. A difference is an error, but a warning for an image chosen by name."""
    # the digest is that of the file itself, which the image's build checks with sha256sum
    digest = hashlib.sha256((here.patches / lockfile.LOCK).read_bytes()).hexdigest()
    wanted = {_PIN + name: pins.pin(here, name) for name in here.upstreams} | {_PATCHES: digest}
    labelled = connection.labels(engine, image)
    different, unsaid = _differences(labelled, wanted), [_noun(key) for key in wanted if not labelled.get(key)]
    if different and not chosen:
        raise EngineError(
            f"the image {image} does not match this checkout: {'; '.join(different)}",
            hint=f"`make docker-build` makes it anew; `--image {image}` takes it as it is",
        )
    if different:
        watcher.say(f"warning: the image {image} does not match this checkout: {'; '.join(different)}")
    if unsaid:
        watcher.say(f"warning: the image {image} does not say its {', '.join(unsaid)}")
    head = git_process.head(here.root)
    for note in _differences(labelled, {_REVISION: head} if head else {}):
        watcher.note(f"the image {image} was made from {note}")


def _differences(labelled: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Return the labels whose values differ from this checkout's, each as a few words. Missing labels do not count."""
    return [
        f"{_noun(key)} {labelled[key][:12]}, not {value[:12]}"
        for key, value in wanted.items()
        if labelled.get(key) not in (None, "", value)
    ]


def _noun(key: str) -> str:
    return {_PATCHES: "patch set", _REVISION: "commit"}.get(key, key.removeprefix(_PIN))
