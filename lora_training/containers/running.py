"""Running one container from its creation to its removal: output, signals and exit code are passed on."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from lora_training.containers import connection
from lora_training.containers.connection import Connection
from lora_training.errors import ConfigError, Interrupted
from lora_training.launch.container import RUN_LABEL, SHM_BYTES, STOP_TIMEOUT_S, Container
from lora_training.supervise.signals import Asked

_GLANCE_S = 0.1
# the first signal saves the state, the second ends the training; from the third on, the container is killed
_PATIENCE = 2


@dataclass(frozen=True)
class Screen:
    """The receiver of the output: `write(chunk, is_error)`. `size` returns the terminal's columns and lines, if any."""

    write: Callable[[bytes, bool], None]
    size: Callable[[], tuple[int, int]] | None = None


@dataclass(frozen=True)
class Ended:
    """How a container ended. `error` is the engine's own message, if there is one."""

    code: int
    out_of_memory: bool = False
    error: str = ""


def run(engine: Connection, container: Container, screen: Screen, asked: Asked) -> Ended:
    """Run a container to its end and always remove it. `asked` counts the signals to pass on.

    Raises EngineError when the engine refuses, ConfigError when the run has a container already.
    """
    with connection.errors_reported(), _created(engine, container) as name:
        if asked.count:
            raise Interrupted("stopped before the start", signum=asked.signum)
        stream = engine.api.attach(name, stream=True, demux=True)  # before the start, so that nothing is missed
        engine.api.start(name)
        return _Watch(engine.api, name, screen, asked).to_its_end(stream)


@contextmanager
def _created(engine: Connection, container: Container) -> Iterator[str]:
    from docker.errors import APIError, NotFound

    given = arguments(engine.api, container)
    try:
        name = engine.api.create_container(**given)["Id"]
    except APIError as exc:
        # Docker answers with code 409, older Podmans with 500
        if "already in use" not in connection.sentence(exc) or not _remove_ended(engine, container):
            raise
        name = engine.api.create_container(**given)["Id"]
    try:
        yield name
    finally:
        with suppress(NotFound):
            engine.api.remove_container(name, v=True, force=True)


def _remove_ended(engine: Connection, container: Container) -> bool:
    """Remove the same run's container if a killed `lora` left it. Raises ConfigError when it still runs."""
    found = engine.api.inspect_container(container.name)
    run, program = (found["Config"].get("Labels") or {}).get(RUN_LABEL), engine.kind.program
    if run != container.labels[RUN_LABEL]:
        return False
    if found["State"].get("Running"):
        raise ConfigError(
            f"this run is at work in the container {container.name} already",
            hint=f"`{program} logs -f {container.name}` follows it;\n"
            f"`{program} stop {container.name}` saves its state and ends it",
        )
    engine.api.remove_container(container.name, v=True, force=True)
    return True


def arguments(api: Any, container: Container) -> dict[str, Any]:
    """Return the arguments for `APIClient.create_container`."""
    from docker.types import DeviceRequest, Mount

    # all GPUs, so that `gpu_ids` and CUDA_VISIBLE_DEVICES mean the same inside and outside
    request: dict[str, Any] = {"driver": "cdi", "device_ids": ["nvidia.com/gpu=all"]}
    if container.gpus == "engine":
        request = {"count": -1, "capabilities": [["gpu"]]}
    host = api.create_host_config(
        mounts=[Mount(m.target, m.source, type="bind", read_only=not m.writable) for m in container.mounts],
        shm_size=SHM_BYTES,
        group_add=[str(group) for group in container.groups],
        device_requests=[DeviceRequest(**request)] if container.gpus else [],
        network_mode=container.network,
        userns_mode=container.userns,
        security_opt=list(container.security),
    )
    return {
        "image": container.image,
        "name": container.name,
        "command": list(container.command),
        "user": container.user,
        "environment": dict(container.env),
        "labels": dict(container.labels),
        "tty": container.tty,
        "stop_timeout": STOP_TIMEOUT_S,
        "host_config": host,
    }


class _Watch:
    """A running container."""

    def __init__(self, api: Any, name: str, screen: Screen, asked: Asked) -> None:
        self._api, self._name, self._screen, self._asked = api, name, screen, asked
        self._passed_on = 0
        self._size: tuple[int, int] | None = None

    def to_its_end(self, stream: Any) -> Ended:
        for chunk, is_error in self._chunks(stream):
            self._screen.write(chunk, is_error)
        # the output may end first, when the engine is gone or has not noticed the end yet
        while (state := self._api.inspect_container(self._name)["State"]).get("Running"):
            self._look()
            threading.Event().wait(_GLANCE_S)
        return Ended(state["ExitCode"], bool(state.get("OOMKilled")), state.get("Error") or "")

    def _chunks(self, stream: Any) -> Iterator[tuple[bytes, bool]]:
        """Yield the output, read in its own thread, so that signals are passed on while there is no output."""
        chunks: queue.SimpleQueue[tuple[bytes, bool] | None] = queue.SimpleQueue()

        def read() -> None:
            # a lost connection to the engine is noticed when the container's state is requested
            with suppress(OSError, ValueError):
                for out, err in stream:
                    chunks.put((err, True) if err else (out or b"", False))
            chunks.put(None)

        threading.Thread(target=read, daemon=True).start()
        while True:
            self._look()
            try:
                found = chunks.get(timeout=_GLANCE_S)
            except queue.Empty:
                continue
            if found is None:
                return
            yield found

    def _look(self) -> None:
        size = self._screen.size() if self._screen.size else None
        if size and size != self._size:
            self._size = size
            self._tell(self._api.resize, height=size[1], width=size[0])
        while self._passed_on < self._asked.count:
            self._passed_on += 1
            harsh = self._passed_on > _PATIENCE
            self._tell(self._api.kill, signal=signal.SIGKILL.name if harsh else signal.Signals(self._asked.signum).name)

    def _tell(self, order: Callable[..., Any], **how: Any) -> None:
        """Send a command for the container to the engine; the container may have ended by now."""
        from docker.errors import APIError

        with suppress(APIError):
            order(self._name, **how)
