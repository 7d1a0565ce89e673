"""The connection to a container engine, and its kind."""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_training.containers import failures
from lora_training.errors import EngineError
from lora_training.launch.container import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# The SDK's own timeout, a minute, applies to the first answer. A busy engine needs longer to start or remove one.
_PATIENCE_S = 600
_DEFAULT = "/var/run/docker.sock"
# the first Podman whose Docker interface accepts device requests; earlier ones ignore them silently
_PODMAN_WITH_GPUS = (5, 4)


@dataclass(frozen=True)
class Connection:
    """An engine that answers. `api` is the SDK's `APIClient`; `gives_gpus` is whether it supports requests for GPUs."""

    api: Any
    address: str
    kind: Engine
    gives_gpus: bool = True


@contextmanager
def connected(environ: Mapping[str, str]) -> Iterator[Connection]:
    """Yield a connection to an engine; close it after the block.

    The engine is that of DOCKER_HOST, CONTAINER_HOST (Podman's variable) or Docker's current context, else the first
    that has a socket: Docker's, its rootless one, Podman's. Raises EngineError when none answers.
    """
    host = _host(environ)
    address = host or environ.get("DOCKER_HOST") or f"unix://{_DEFAULT}"
    api = _api({**environ, **({"DOCKER_HOST": host} if host else {})}, address)
    try:
        with failures.reported():
            version, info = api.version(), api.info()
        api.timeout = _PATIENCE_S
        yield _described(api, address, version, info)
    finally:
        api.close()


def _host(environ: Mapping[str, str]) -> str | None:
    """Return the address to use in place of the SDK's own choice; None to leave the choice to the SDK."""
    if environ.get("DOCKER_HOST"):
        return None
    if environ.get("CONTAINER_HOST"):
        return environ["CONTAINER_HOST"]
    if environ.get("DOCKER_CONTEXT") or Path(_DEFAULT).exists() or _context() not in ("", f"unix://{_DEFAULT}"):
        return None
    own = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    sockets = (f"{own}/docker.sock", f"{own}/podman/podman.sock", "/run/podman/podman.sock")
    return next((f"unix://{path}" for path in sockets if os.access(path, os.W_OK)), None)


def _context() -> str:
    """Return the address of the Docker command's current context."""
    from docker.context import ContextAPI
    from docker.errors import DockerException

    try:
        return str(ContextAPI.kwargs_from_context().get("base_url", "")).replace("http+unix://", "unix://")
    except (DockerException, OSError, ValueError):
        return ""


def _api(environ: Mapping[str, str], address: str) -> Any:
    import docker

    try:
        return docker.from_env(environment=dict(environ)).api
    except (docker.errors.DockerException, OSError, ValueError) as exc:
        raise _unreachable(exc, address) from exc


def _unreachable(exc: BaseException, address: str) -> EngineError:
    number = failures.os_error(exc)
    socket = address.removeprefix("unix://")
    if number == errno.EACCES:
        return EngineError(
            f"the container engine at {socket} does not let {_me()} in",
            hint="join its group: `sudo usermod -aG docker $USER`, then log in anew; or use a rootless engine",
        )
    if number == errno.ENOENT:
        what, hint = "there is no container engine here", f"{socket} does not exist; start Docker or Podman's socket"
    else:
        what, hint = f"the container engine at {socket} does not answer", failures.sentence(exc)
    return EngineError(what, hint=f"{hint};\nDOCKER_HOST names another; without --docker, `lora train` needs none")


def _me() -> str:
    return os.environ.get("USER") or f"user {os.getuid()}"


def _described(api: Any, address: str, version: Mapping[str, Any], info: Mapping[str, Any]) -> Connection:
    podman = next((part for part in version.get("Components") or () if "podman" in part.get("Name", "").lower()), None)
    options = {option.split(",")[0].removeprefix("name=") for option in info.get("SecurityOptions") or ()}
    kind = Engine("podman" if podman else "docker", "rootless" in options, "userns" in options, "selinux" in options)
    return Connection(api, address, kind, podman is None or _numbers(podman.get("Version", "")) >= _PODMAN_WITH_GPUS)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
