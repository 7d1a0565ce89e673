"""Comparison of a container image with this checkout."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from lora_training import repositories
from lora_training.containers import images
from lora_training.errors import EngineError
from lora_training.patching import lockfile
from lora_training.upstream import pins

if TYPE_CHECKING:
    from lora_training.app.watcher import Watcher
    from lora_training.containers.connection import Connection
    from lora_training.workspace import Workspace


def compare(here: Workspace, engine: Connection, image: str, watcher: Watcher, *, chosen: bool) -> None:
    """Compare the image with this checkout. A difference is an error, but a warning for an image chosen by name."""
    wanted = _wanted(here)
    labelled = images.labels(engine, image)
    different, unsaid = images.differences(labelled, wanted), images.unsaid(labelled, wanted)
    if different and not chosen:
        raise EngineError(
            f"the image {image} is not what this checkout would make: {'; '.join(different)}",
            hint=f"`make docker-build` makes it anew; `--image {image}` takes it as it is",
        )
    if different:
        watcher.say(f"warning: the image {image} is not what this checkout would make: {'; '.join(different)}")
    if unsaid:
        watcher.say(f"warning: the image {image} does not say its {', '.join(unsaid)}")
    for note in images.differences(labelled, _revision(here)):
        watcher.note(f"the image {image} was made from {note}")


def _wanted(here: Workspace) -> dict[str, str]:
    """Return the labels of an image built from this checkout: its pins and its patch set."""
    return {
        **{images.PIN + name: pins.pin(here, name) for name in here.upstreams},
        # the file's own digest, which the image's build checks with sha256sum
        images.PATCHES: hashlib.sha256((here.patches / lockfile.LOCK).read_bytes()).hexdigest(),
    }


def _revision(here: Workspace) -> dict[str, str]:
    head = repositories.head(here.root)
    return {images.REVISION: head} if head else {}
