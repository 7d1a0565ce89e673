"""From the places that a configuration names to what a container has to be shown of this machine."""

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

# far more than anyone chains
_HOPS = 40


def shown(places: Iterable[Place], caches: Mapping[str, Path]) -> tuple[Mount, ...]:
    """What to mount for `places` that are there or will be, and for `caches` (by their folder in the container).

    Writes nothing. Raises ConfigError as `launch.mounts.merged`.
    """
    there = [place for place in places if place.made or paths.exists(place.folder)]
    mounts = [_mount(cache, target, writable=True) for target, cache in caches.items()]
    mounts += [_mount(place.folder, str(place.folder), writable=place.written) for place in there]
    mounts += [extra for place in there if not place.made for extra in _links(place.folder, tuple(mounts))]
    return merged(mounts)


def make(mounts: Iterable[Mount]) -> None:
    """Make the folders that are to be written to: an engine would make them root's, if at all.

    What lies within another is not mounted, and so left to the training, which may tell by a folder that is missing
    that there is something to make. Raises ConfigError for one that cannot be made.
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
    # `..` is taken out of the text, as `config.paths` does: no folder on the way there is in the container
    return Mount(os.path.realpath(path), os.path.normpath(target), writable)


def _links(folder: Path, mounts: tuple[Mount, ...]) -> Iterator[Mount]:
    """What the symbolic links in an input lead to, where that is not mounted."""
    real = Path(os.path.realpath(folder))
    for parent, folders, files in os.walk(real):
        for name in (*folders, *files):
            link = Path(parent, name)
            if link.is_symlink():
                yield from _led_to(link, folder / link.relative_to(real), mounts)


def _led_to(link: Path, seen: Path, mounts: tuple[Mount, ...]) -> Iterator[Mount]:
    """What `link` leads to, hop by hop; `seen` is its path in the container. One that leads nowhere is left so."""
    for _ in range(_HOPS):
        if not (link.is_symlink() and link.exists()):
            return
        step = os.readlink(link)  # noqa: PTH115 - the text as it stands
        link, seen = Path(os.path.realpath(link.parent), step), Path(os.path.normpath(seen.parent / step))
        if any(seen.is_relative_to(mount.target) for mount in mounts):
            continue
        # its folder, once, and not each of a thousand images; unless the image has a folder of that name itself
        alone = link.is_dir() or is_refused(str(seen.parent))
        yield _mount(link if alone else link.parent, str(seen if alone else seen.parent), writable=False)
