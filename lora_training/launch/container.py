"""A training container as data, with the host folders that it mounts. Pure: reads, starts and writes nothing.

Host folders are mounted at their own paths. So the configuration, a run's digests, its logs and its saved states name
the same paths inside and outside, and a run can be resumed in a container or on the host.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from lora_training import shell
from lora_training.errors import ConfigError

IMAGE = "lora-training"
# folders in the image for the hub's files, and for its models where they are kept separately
HUB_HOME = "/cache/huggingface"
HUB_CACHE = "/cache/hub"
RUN_LABEL = "lora.run"
# The time for a container to stop: enough for a long step and for saving the state of a large model.
STOP_TIMEOUT_S = 300
# Only a limit: the data loader's workers and NCCL allocate as needed, and Docker's default of 64 MB is too small.
SHM_BYTES = 8 * 2**30
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD")
# Folders of the image. A mount on one of them, or above, would hide its files.
_NEVER_WITHIN = tuple(map(PurePosixPath, ("/dev", "/proc", "/sys")))
_SOFTWARE = ("/bin", "/etc", "/lib", "/lib32", "/lib64", "/opt/lora", "/opt/venv", "/sbin", "/usr")
_IMAGES_OWN = (*_NEVER_WITHIN, *map(PurePosixPath, _SOFTWARE))


@dataclass(frozen=True)
class Engine:
    """The relevant properties of a container engine.

    `rootless`: root in the container is the calling user. `remapped`: user ids are remapped. `selinux`: containers are
    confined by SELinux labels.
    """

    program: str = "docker"
    rootless: bool = False
    remapped: bool = False
    selinux: bool = False


@dataclass(frozen=True)
class Caller:
    """The user that will own the outputs."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True)
class Mount:
    """A file or folder of the host, `source` (without symbolic links), mounted at `target` in the container."""

    source: str
    target: str
    writable: bool = False

    def option(self) -> str:
        """Return the value of `--mount`, which is parsed as a line of CSV."""
        access = () if self.writable else ("readonly",)
        fields = ("type=bind", f"source={self.source}", f"target={self.target}", *access)
        return ",".join('"{}"'.format(f.replace('"', '""')) if re.search(r'[",\n\r]', f) else f for f in fields)


@dataclass(frozen=True)
class ContainerRun:
    """A training to run in a container.

    `output` is the LoRA file; `sets` and `resume` are options of `lora train`.
    """

    image: str
    config: Path
    output: Path
    mounts: tuple[Mount, ...]
    sets: tuple[str, ...] = ()
    resume: str | None = None
    verbose: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    gpus: bool = False
    tty: bool = False
    machines: int = 1


@dataclass(frozen=True)
class Container:
    """A container to create. `gpus` is how to request all GPUs: by the engine's option, as CDI devices, or None."""

    image: str
    name: str
    command: tuple[str, ...]
    mounts: tuple[Mount, ...]
    env: Mapping[str, str]
    labels: Mapping[str, str]
    user: str
    groups: tuple[int, ...] = ()
    gpus: str | None = None
    tty: bool = False
    network: str | None = None
    userns: str | None = None
    security: tuple[str, ...] = ()
    program: str = "docker"

    def shell(self) -> str:
        """Return the command as one POSIX shell line. Secrets are taken from the environment of that shell."""
        return shell.join([self.program, "run", *self._options(), self.image, *self.command])

    def _options(self) -> Iterator[str]:
        yield from ("--rm", "--name", self.name, "--user", self.user)
        for group in self.groups:
            yield from ("--group-add", str(group))
        yield from (word for mount in self.mounts for word in ("--mount", mount.option()))
        yield from ("--shm-size", str(SHM_BYTES), "--stop-timeout", str(STOP_TIMEOUT_S))
        for name, value in self.env.items():
            yield from ("--env", name if _SECRET.search(name) else f"{name}={value}")
        for name, value in self.labels.items():
            yield from ("--label", f"{name}={value}")
        yield from {"engine": ("--gpus", "all"), "cdi": ("--device", "nvidia.com/gpu=all")}.get(self.gpus or "", ())
        for name, given in (("--network", self.network), ("--userns", self.userns)):
            yield from (name, given) if given else ()
        yield from (word for item in self.security for word in ("--security-opt", item))


def describe(run: ContainerRun, caller: Caller, engine: Engine) -> Container:
    """Describe the container that runs `run`, with outputs owned by `caller`.

    Raises ConfigError for a path that cannot be mounted at its own location.
    """
    # the same for each container of a run, so that the engine refuses a second one at a time
    digest = hashlib.sha256(os.fsencode(run.output)).hexdigest()[:8]
    name = re.sub(r"[^a-zA-Z0-9_.-]", "-", f"lora-{run.output.stem}-{digest}")
    sets = (word for item in run.sets for word in ("--set", item))
    resume = ("--resume", run.resume) if run.resume else ()
    described = Container(
        image=run.image,
        name=name,
        command=("train", str(run.config), *sets, *resume, *(("--verbose",) if run.verbose else ())),
        mounts=merged(run.mounts),
        env=dict(sorted(run.env.items())),
        labels={RUN_LABEL: str(run.output.with_suffix(".run"))},
        # in a rootless engine, root is the calling user, and any other user is a foreign one
        user="0:0" if engine.rootless else f"{caller.uid}:{caller.gid}",
        groups=() if engine.rootless else tuple(group for group in caller.groups if group != caller.gid),
        gpus=("cdi" if engine.program == "podman" else "engine") if run.gpus else None,
        tty=run.tty,
        # several machines connect to a port on this one
        network="host" if run.machines > 1 else None,
        userns="host" if engine.remapped and not engine.rootless else None,
        security=("label=disable",) if engine.selinux else (),
        program=engine.program,
    )
    for text in (*(path for mount in described.mounts for path in (mount.source, mount.target)), *described.command):
        # the engine's API is JSON
        if text.encode(errors="replace").decode() != text:
            raise ConfigError(f"{text!a} is not UTF-8, which a container engine needs", hint="rename it")
    return described


def merged(mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    """Return the mounts, outermost first, without those already covered by a writable one.

    Raises ConfigError for a mount that would hide files of the image. Paths inside an output folder are not mounted
    separately, because upstream could neither replace nor delete a mount point.
    """
    by_target: dict[str, Mount] = {}
    for mount in mounts:
        if is_refused(mount.target):
            raise ConfigError(
                f"{mount.target} cannot be mounted: it would hide the image's own files",
                hint="name a folder further down, or move what is in it",
            )
        if mount.target not in by_target or mount.writable:
            by_target[mount.target] = mount
    kept: list[Mount] = []
    for mount in sorted(by_target.values(), key=lambda mount: PurePosixPath(mount.target).parts):
        if not any(outer.writable and _shows(outer, mount) for outer in kept):
            kept.append(mount)
    return tuple(kept)


def is_refused(target: str) -> bool:
    """Whether a mount at `target` would hide files of the image."""
    path = PurePosixPath(target)
    above = any(own.is_relative_to(path) for own in _IMAGES_OWN)
    return above or any(path.is_relative_to(own) for own in _NEVER_WITHIN)


def _shows(outer: Mount, inner: Mount) -> bool:
    """Whether mounting `outer` also makes `inner` available at its target."""
    target, source = PurePosixPath(inner.target), PurePosixPath(inner.source)
    if not (target.is_relative_to(outer.target) and source.is_relative_to(outer.source)):
        return False
    return target.relative_to(outer.target) == source.relative_to(outer.source)
