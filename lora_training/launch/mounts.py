"""The host folders that a container mounts. Pure functions.

Host folders are mounted at their own paths. So the configuration, a run's digests, its logs and its saved states name
the same paths inside and outside, and a run can be resumed in a container or on the host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from lora_training.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

# Folders of the image. A mount on one of them, or above, would hide its files.
_NEVER_WITHIN = tuple(map(PurePosixPath, ("/dev", "/proc", "/sys")))
_SOFTWARE = ("/bin", "/etc", "/lib", "/lib32", "/lib64", "/opt/lora", "/opt/venv", "/sbin", "/usr")
_IMAGES_OWN = (*_NEVER_WITHIN, *map(PurePosixPath, _SOFTWARE))


@dataclass(frozen=True)
class Mount:
    """A file or folder of the host, `source` (without symbolic links), mounted at `target` in the container."""

    source: str
    target: str
    writable: bool = False

    def option(self) -> str:
        """Return the value of `--mount`, which is parsed as a line of CSV."""
        access = () if self.writable else ("readonly",)
        return ",".join(map(_csv, ("type=bind", f"source={self.source}", f"target={self.target}", *access)))


def merged(mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    """Return the mounts, outermost first, without those already covered by a writable one.

    Raises ConfigError for a mount that would hide files of the image. Paths inside an output folder are not mounted
    separately, because upstream could neither replace nor delete a mount point.
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


def _refuse(mount: Mount) -> None:
    if is_refused(mount.target):
        raise ConfigError(
            f"{mount.target} cannot be mounted: it would hide the image's own files",
            hint="name a folder further down, or move what is in it",
        )


def _csv(text: str) -> str:
    return '"{}"'.format(text.replace('"', '""')) if re.search(r'[",\n\r]', text) else text
