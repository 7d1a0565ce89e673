"""The connection to a container engine: which one, its kind, its images' labels, and its errors in one sentence."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_training.errors import EngineError
from lora_training.launch.container import IMAGE, Engine

# The SDK's own timeout, a minute, applies to the first answer. A busy engine needs longer to start or remove one.
_PATIENCE_S = 600
_DEFAULT = "/var/run/docker.sock"
# the first Podman whose Docker interface accepts device requests; earlier ones ignore them silently
_PODMAN_WITH_GPUS = (5, 4)
_NO_GPU = ("could not select device driver", "nvidia-container", "cdi device", "unresolvable cdi", "libnvidia", "nvml")
_ON_CPU = ";\nor `ACCELERATE_USE_CPU=1 lora train ...` trains on the CPU"
_GPU_HINT = "install the NVIDIA Container Toolkit, run `nvidia-ctk runtime configure` and restart the engine"
_CDI_HINT = "install the NVIDIA Container Toolkit and run `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`"


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
    import docker

    host = _host(environ)
    address = host or environ.get("DOCKER_HOST") or f"unix://{_DEFAULT}"
    try:
        api = docker.from_env(environment={**environ, **({"DOCKER_HOST": host} if host else {})}).api
    except (docker.errors.DockerException, OSError, ValueError) as exc:
        raise _unreachable(exc, address.removeprefix("unix://")) from exc
    try:
        with errors_reported():
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


def _unreachable(exc: BaseException, socket: str) -> EngineError:
    number = next((found.errno for found in _causes(exc) if isinstance(found, OSError) and found.errno), None)
    if number == errno.EACCES:
        return EngineError(
            f"the container engine at {socket} does not let {os.environ.get('USER') or f'user {os.getuid()}'} in",
            hint="join its group: `sudo usermod -aG docker $USER`, then log in anew; or use a rootless engine",
        )
    if number == errno.ENOENT:
        what, hint = "there is no container engine here", f"{socket} does not exist; start Docker or Podman's socket"
    else:
        what, hint = f"the container engine at {socket} does not answer", sentence(exc)
    return EngineError(what, hint=f"{hint};\nDOCKER_HOST names another; without --docker, `lora train` needs none")


def _described(api: Any, address: str, version: Mapping[str, Any], info: Mapping[str, Any]) -> Connection:
    podman = next((part for part in version.get("Components") or () if "podman" in part.get("Name", "").lower()), None)
    options = {option.split(",")[0].removeprefix("name=") for option in info.get("SecurityOptions") or ()}
    kind = Engine("podman" if podman else "docker", "rootless" in options, "userns" in options, "selinux" in options)
    numbers = tuple(map(int, re.findall(r"\d+", podman.get("Version", ""))[:2])) if podman else ()
    return Connection(api, address, kind, podman is None or numbers >= _PODMAN_WITH_GPUS)


def labels(engine: Connection, name: str) -> dict[str, str]:
    """Return the labels of a local image. It is never pulled, since images are gigabytes large.

    Raises EngineError when the engine has no such image.
    """
    from docker.errors import ImageNotFound

    with errors_reported():
        try:
            found = engine.api.inspect_image(name)
        except ImageNotFound as exc:
            program = engine.kind.program
            hint = "`make docker-build` makes it" if name == IMAGE else f"`{program} pull {name}` brings it"
            message = f"{program} has no image {name}"
            raise EngineError(message, hint=f"{hint}; `{program} images` lists those there are") from exc
    return dict((found.get("Config") or {}).get("Labels") or {})


@contextmanager
def errors_reported() -> Iterator[None]:
    """Turn every error of the SDK in the block into an EngineError, as one sentence with a hint."""
    import requests
    from docker.errors import DockerException

    try:
        yield
    except requests.ConnectionError as exc:
        hint = "once it is back, the same command goes on from the last state, or says that the container still trains"
        raise EngineError(f"the container engine went away: {sentence(exc)}", hint=hint) from exc
    except (DockerException, requests.RequestException) as exc:
        raise _error(sentence(exc)) from exc


def _error(said: str) -> EngineError:
    if any(words in said.lower() for words in _NO_GPU):
        hint = (_CDI_HINT if "cdi" in said.lower() else _GPU_HINT) + _ON_CPU
        return EngineError(f"the container engine has no GPU to give: {said}", hint=hint)
    if "source path does not exist" in said:
        hint = "it mounts folders of the machine that it runs on, which must be this one"
        return EngineError(f"the container engine cannot mount a folder: {said}", hint=hint)
    if "invalid mount option" in said:
        return EngineError(f"this Podman cannot mount a path with a comma in it: {said}", hint="rename it")
    if "executable file not found" in said or "no such file or directory" in said.lower():
        return EngineError(f"the image cannot be started: {said}", hint="its entry point is not `lora`: name another")
    return EngineError(f"the container engine refused: {said}")


def sentence(exc: BaseException) -> str:
    """Return the engine's own message, or else that of the connection error, on one line."""
    deepest = next((found for found in _causes(exc) if isinstance(found, OSError) and found.strerror), exc)
    said = getattr(exc, "explanation", None) or str(deepest)
    text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    with suppress(ValueError, TypeError, KeyError):
        text = str(json.loads(text)["message"])
    return " ".join(text.split()) or type(exc).__name__


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Yield the exception and all its causes: the SDK and its libraries keep some in arguments."""
    found: list[Any] = [exc]
    # the list grows while it is walked
    for one in found:
        if isinstance(one, BaseException):
            yield one
            more = (one.__cause__, one.__context__, *one.args, getattr(one, "reason", None))
            found += [each for each in more if not any(each is known for known in found)]
