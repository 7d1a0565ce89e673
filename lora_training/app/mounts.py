"""The mounts of a container, from the paths that a configuration names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lora_training.config import paths
from lora_training.errors import ConfigError
from lora_training.launch.mounts import Mount, is_refused, merged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from lora_training.config.places import Place

# the longest chain of links that is followed
_HOPS = 40


def shown(places: Iterable[Place], caches: Mapping[str, Path]) -> tuple[Mount, ...]:
    """Return the mounts for `places` that exist or will be created, and for `caches` (by their path in the container).

    Writes nothing. Raises ConfigError as `launch.mounts.merged`.
    """
    there = [place for place in places if place.made or paths.exists(place.folder)]
    mounts = [_mount(cache, target, writable=True) for target, cache in caches.items()]
    mounts += [_mount(place.folder, str(place.folder), writable=place.written) for place in there]
    mounts += [extra for place in there if not place.made for extra in _links(place.folder, tuple(mounts))]
    return merged(mounts)


def make(mounts: Iterable[Mount]) -> None:
    """Create the writable folders: an engine would create them as root, if at all.

    A folder inside another mount is not mounted, and so left to the training, for which a missing folder may mean that
    its content has to be generated. Raises ConfigError for one that cannot be created.
    """
    for mount in mounts:
        if mount.writable:
            _make(Path(mount.source))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(
            f"cannot make {folder}: {exc.strerror}", hint="choose another, or mend its permissions"
        ) from exc


def _mount(path: Path, target: str, *, writable: bool) -> Mount:
    # `..` is resolved in the text, as in `config.paths`: the container does not have the folders in between
    return Mount(os.path.realpath(path), os.path.normpath(target), writable)


def _links(folder: Path, mounts: tuple[Mount, ...]) -> Iterator[Mount]:
    """Yield mounts for the targets of symbolic links in an input, where they are not mounted yet."""
    real = Path(os.path.realpath(folder))
    for parent, folders, files in os.walk(real):
        for name in (*folders, *files):
            link = Path(parent, name)
            if link.is_symlink():
                yield from _led_to(link, folder / link.relative_to(real), mounts)


def _led_to(link: Path, seen: Path, mounts: tuple[Mount, ...]) -> Iterator[Mount]:
    """Yield mounts for each hop of `link`, whose path in the container is `seen`. Broken links are left as they are."""
    for _ in range(_HOPS):
        if not (link.is_symlink() and link.exists()):
            return
        step = os.readlink(link)  # noqa: PTH115 - the text as it stands
        link, seen = Path(os.path.realpath(link.parent), step), Path(os.path.normpath(seen.parent / step))
        if any(seen.is_relative_to(mount.target) for mount in mounts):
            continue
        # mount its folder once, not each of a thousand images, unless the image has a folder of that name itself
        alone = link.is_dir() or is_refused(str(seen.parent))
        yield _mount(link if alone else link.parent, str(seen if alone else seen.parent), writable=False)
