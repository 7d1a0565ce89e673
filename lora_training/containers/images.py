"""The labels of the image for a training, compared with this checkout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_training.containers import failures
from lora_training.errors import EngineError
from lora_training.launch.container import IMAGE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lora_training.containers.connection import Connection

# the labels that the Dockerfile sets
REVISION = "org.opencontainers.image.revision"
PATCHES = "lora.patches.sha256"
PIN = "lora.pin."


def labels(engine: Connection, name: str) -> dict[str, str]:
    """Return the labels of a local image. It is never pulled, since images are gigabytes large.

    Raises EngineError when the engine has no such image.
    """
    from docker.errors import ImageNotFound

    with failures.reported():
        try:
            found = engine.api.inspect_image(name)
        except ImageNotFound as exc:
            program = engine.kind.program
            hint = "`make docker-build` makes it" if name == IMAGE else f"`{program} pull {name}` brings it"
            message = f"{program} has no image {name}"
            raise EngineError(message, hint=f"{hint}; `{program} images` lists those there are") from exc
    return dict((found.get("Config") or {}).get("Labels") or {})


def differences(labelled: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[str, ...]:
    """Return the labels whose values differ from this checkout's, each as a few words. Missing labels do not count."""
    return tuple(
        f"{_noun(key)} {_short(labelled[key])}, not {_short(value)}"
        for key, value in wanted.items()
        if labelled.get(key) and labelled[key] != value
    )


def unsaid(labelled: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[str, ...]:
    """Return the missing labels: the image was built without `make docker-build`, or is another program's."""
    return tuple(_noun(key) for key in wanted if not labelled.get(key))


def _noun(key: str) -> str:
    return {PATCHES: "patch set", REVISION: "commit"}.get(key, key.removeprefix(PIN))


def _short(text: str) -> str:
    return text[:12]
