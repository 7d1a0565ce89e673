"""Describe a training container as data. Pure: reads, starts and writes nothing."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lora_training import shell
from lora_training.errors import ConfigError
from lora_training.launch.mounts import merged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from lora_training.launch.mounts import Mount

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
class Order:
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


def describe(order: Order, caller: Caller, engine: Engine) -> Container:
    """Describe the container that runs `order`, with outputs owned by `caller`.

    Raises ConfigError for a path that cannot be mounted at its own location.
    """
    described = Container(
        image=order.image,
        name=_name(order.output),
        command=_command(order),
        mounts=merged(order.mounts),
        env=dict(sorted(order.env.items())),
        labels={RUN_LABEL: str(order.output.with_suffix(".run"))},
        # in a rootless engine, root is the calling user, and any other user is a foreign one
        user="0:0" if engine.rootless else f"{caller.uid}:{caller.gid}",
        groups=() if engine.rootless else tuple(group for group in caller.groups if group != caller.gid),
        gpus=("cdi" if engine.program == "podman" else "engine") if order.gpus else None,
        tty=order.tty,
        # several machines connect to a port on this one
        network="host" if order.machines > 1 else None,
        userns="host" if engine.remapped and not engine.rootless else None,
        security=("label=disable",) if engine.selinux else (),
        program=engine.program,
    )
    _refuse_bytes(described)
    return described


def _refuse_bytes(container: Container) -> None:
    """Refuse paths and arguments that are not UTF-8: the engine's API is JSON."""
    paths = [path for mount in container.mounts for path in (mount.source, mount.target)]
    for text in (*paths, *container.command):
        if text.encode(errors="replace").decode() != text:
            raise ConfigError(f"{text!a} is not UTF-8, which a container engine needs", hint="rename it")


def _name(output: Path) -> str:
    """Return a name that is the same for each container of a run, so that the engine refuses a second one at a time."""
    stem = re.sub(r"[^a-zA-Z0-9_.-]", "-", output.stem)
    return f"lora-{stem}-{hashlib.sha256(str(output).encode(errors='surrogateescape')).hexdigest()[:8]}"


def _command(order: Order) -> tuple[str, ...]:
    sets = (word for item in order.sets for word in ("--set", item))
    resume = ("--resume", order.resume) if order.resume else ()
    return ("train", str(order.config), *sets, *resume, *(("--verbose",) if order.verbose else ()))
