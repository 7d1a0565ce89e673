"""What a container is shown of its host: pure, as all here.

A host's folders are mounted where they are on the host. So the configuration, the digests that say what made a run,
its logs and its saved states name the same paths within and without, and a run may go on in a container or outside.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from lora_training.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

# What the image is made of. A mount there, or above, would put the host's files in its place.
_NEVER_WITHIN = tuple(map(PurePosixPath, ("/dev", "/proc", "/sys")))
_SOFTWARE = ("/bin", "/etc", "/lib", "/lib32", "/lib64", "/opt/lora", "/opt/venv", "/sbin", "/usr")
_IMAGES_OWN = (*_NEVER_WITHIN, *map(PurePosixPath, _SOFTWARE))


@dataclass(frozen=True)
class Mount:
    """A file or folder of the host, `source` (without symbolic links), as the container sees it at `target`."""

    source: str
    target: str
    writable: bool = False

    def option(self) -> str:
        """The value of `--mount`, which is read as a line of CSV."""
        access = () if self.writable else ("readonly",)
        return ",".join(map(_csv, ("type=bind", f"source={self.source}", f"target={self.target}", *access)))


def merged(mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    """The mounts, outermost first, without those that a writable one shows already.

    Raises ConfigError for one that would hide the image's own files.
    What lies within an output is not mounted on its own: upstream could neither replace nor delete it there.
    """
    by_target: dict[str, Mount] = {}
    for mount in mounts:
        _refuse(mount)
        there = by_target.get(mount.target)
        by_target[mount.target] = mount if there is None or mount.writable else there
    kept: list[Mount] = []
    for mount in sorted(by_target.values(), key=lambda mount: PurePosixPath(mount.target).parts):
        if not any(outer.writable and _shows(outer, mount) for outer in kept):
            kept.append(mount)
    return tuple(kept)


def is_refused(target: str) -> bool:
    """Whether a mount at `target` would hide what the image is made of."""
    path = PurePosixPath(target)
    above = any(own.is_relative_to(path) for own in _IMAGES_OWN)
    return above or any(path.is_relative_to(own) for own in _NEVER_WITHIN)


def _shows(outer: Mount, inner: Mount) -> bool:
    """Whether `inner` is there at its target once `outer` is mounted."""
    target, source = PurePosixPath(inner.target), PurePosixPath(inner.source)
    if not (target.is_relative_to(outer.target) and source.is_relative_to(outer.source)):
        return False
    return target.relative_to(outer.target) == source.relative_to(outer.source)


def _refuse(mount: Mount) -> None:
    if is_refused(mount.target):
        raise ConfigError(
            f"{mount.target} cannot be mounted: it would hide the image's own files",
            hint="name a folder further down, or move what is in it",
        )


def _csv(text: str) -> str:
    return '"{}"'.format(text.replace('"', '""')) if re.search(r'[",\n\r]', text) else text
