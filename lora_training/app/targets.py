"""The upstreams as targets of patch commands: joins `patching` and `upstream`, which do not import each other."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from lora_training.patching.series import Target
from lora_training.upstream import pins, status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lora_training.patching.authoring import Edited
    from lora_training.workspace import Workspace


def targets(workspace: Workspace, names: Sequence[str] = ()) -> list[Target]:
    """Return the named upstreams as targets of patch commands; all of them when none is named."""
    return [target(workspace, name) for name in names or workspace.upstreams]


def edited(workspace: Workspace, name: str, files: Sequence[str]) -> Edited:
    """Return one upstream with the changed files in its tree, and `files`, which may be new."""
    from lora_training.patching.authoring import Edited

    upstream = workspace.upstream(name)
    changed = (*status.changes(upstream, pins.head(upstream)), *files)
    return Edited(target(workspace, name), changed)


def target(workspace: Workspace, name: str) -> Target:
    """Return one upstream as a target. Raises UpstreamError for an unknown name or one without a pin."""
    upstream = workspace.upstream(name)
    pin, head = pins.pin(workspace, name), pins.head(upstream)
    manifest = partial(pins.manifest, upstream) if head.origin in {"sdist", "sealed"} else None
    changed = partial(status.changes, upstream, head)
    return Target(name, upstream.path, workspace.patches / name, head.commit, pin, manifest, changed)
