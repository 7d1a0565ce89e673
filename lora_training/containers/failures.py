"""Errors of a container engine, as one sentence with a hint."""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from lora_training.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_GPU = ("could not select device driver", "nvidia-container", "cdi device", "unresolvable cdi", "libnvidia", "nvml")
_GPU_HINT = (
    "install the NVIDIA Container Toolkit, run `nvidia-ctk runtime configure` and restart the engine;\n"
    "or `ACCELERATE_USE_CPU=1 lora train ...` trains on the CPU"
)
_CDI_HINT = (
    "install the NVIDIA Container Toolkit and run `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`;\n"
    "or `ACCELERATE_USE_CPU=1 lora train ...` trains on the CPU"
)


@contextmanager
def reported() -> Iterator[None]:
    """Turn every error of the SDK in the block into an EngineError."""
    import requests
    from docker.errors import DockerException

    try:
        yield
    except (DockerException, requests.RequestException) as exc:
        raise _gone(exc) if isinstance(exc, requests.ConnectionError) else _error(exc) from exc


def _gone(exc: BaseException) -> EngineError:
    hint = "once it is back, the same command goes on from the last state, or says that the container still trains"
    return EngineError(f"the container engine went away: {sentence(exc)}", hint=hint)


def _error(exc: BaseException) -> EngineError:
    said = sentence(exc)
    if any(words in said.lower() for words in _NO_GPU):
        hint = _CDI_HINT if "cdi" in said.lower() else _GPU_HINT
        return EngineError(f"the container engine has no GPU to give: {said}", hint=hint)
    if "source path does not exist" in said:
        return EngineError(
            f"the container engine cannot mount a folder: {said}",
            hint="it mounts folders of the machine that it runs on, which must be this one",
        )
    if "invalid mount option" in said:
        return EngineError(f"this Podman cannot mount a path with a comma in it: {said}", hint="rename it")
    if "executable file not found" in said or "no such file or directory" in said.lower():
        return EngineError(f"the image cannot be started: {said}", hint="its entry point is not `lora`: name another")
    return EngineError(f"the container engine refused: {said}")


def sentence(exc: BaseException) -> str:
    """Return the engine's own message, or else that of the connection error, on one line."""
    said = getattr(exc, "explanation", None) or _deepest(exc)
    text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    with suppress(ValueError, TypeError, KeyError):
        text = str(json.loads(text)["message"])
    return " ".join(text.split()) or type(exc).__name__


def os_error(exc: BaseException) -> int | None:
    """Return the errno of the system error that caused an exception of the SDK."""
    return next((found.errno for found in _chain(exc) if isinstance(found, OSError) and found.errno), None)


def _deepest(exc: BaseException) -> str:
    return str(next((found for found in _chain(exc) if isinstance(found, OSError) and found.strerror), exc))


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """Yield the exception and all its causes: the SDK and its libraries keep some in arguments."""
    seen: set[int] = set()
    found: list[BaseException | None] = [exc]
    while found:
        one = found.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        found += [one.__cause__, one.__context__, *(arg for arg in one.args if isinstance(arg, BaseException))]
        found.append(getattr(one, "reason", None) if isinstance(getattr(one, "reason", None), BaseException) else None)
