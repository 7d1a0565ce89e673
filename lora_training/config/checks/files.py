"""Check that the files and folders of a configuration exist and are not empty."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_training.config import paths
from lora_training.files import read_any
from lora_training.workspace import CACHE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lora_training.config.checks.view import Subset, View
    from lora_training.config.positions import Path as KeyPath
    from lora_training.problems import Problem

_IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl"})
_CAPTIONS = (".txt", ".caption", ".cap")
_SHOWN = 3
_LONGEST = 2**20  # bytes of a caption file
# suffixes of flags that take folders, and of those that take files; other flags take either
_FOLDERS, _FILES = ("_dir",), ("_json", "_prompts", "_config", "_file")


def problems(view: View) -> Iterator[Problem]:
    """Yield paths that are missing, empty, without captions, or a pipe or device, which may never end."""
    for flag in view.schema.flags:
        if view.given(flag.dest) and paths.is_path(flag) and not paths.is_written(flag):
            values = view.value(flag.dest)
            for value in values if isinstance(values, list) else [values]:
                yield from _flag(view, flag.dest, value)
    yield from _state(view)
    for subset in view.subsets:
        yield from _subset(view, subset)
    if not view.config.datasets and view.given("train_data_dir"):
        yield from _data_dir(view)


def _state(view: View) -> Iterator[Problem]:
    """Check `[run] resume` if it names a folder."""
    named = view.config.run.resume
    if named not in ("auto", "never"):
        yield from _missing(view, named, ("run", "resume"), "`[run] resume`")


def _flag(view: View, key: str, value: Any) -> Iterator[Problem]:
    if not isinstance(value, str) or not value:
        return
    if value.startswith("data:"):
        return  # metadata_thumbnail accepts a data URL
    flag = view.schema.keys[key]
    if not paths.is_hub_id(flag, value, view.config.folder):
        yield from _missing(view, value, view.path(key), f"`{key}`")


def _missing(view: View, value: str, place: KeyPath, name: str) -> Iterator[Problem]:
    found = _resolved(view, value)
    if found is None or is_made(view, found):
        return
    if paths.exists(found):
        wrong = _kind(found, "".join(map(str, place[-1:])))
        if wrong:
            yield view.config.problem(f"{name}: {found} is {wrong}", place)
        return
    shown = str(found) if str(found) != value else value
    yield view.config.problem(f"{name}: {shown} does not exist", place, hint=_near(found))


def _kind(path: Path, key: str) -> str | None:
    """Return why an existing path is of the wrong kind for `key`, or None."""
    if path.is_dir():
        return "a folder, not a file" if key.endswith(_FILES) else None
    if not path.is_file():
        return "neither a file nor a folder"
    return "a file, not a folder" if key.endswith(_FOLDERS) else None


def _resolved(view: View, value: str) -> Path | None:
    try:
        return Path(paths.absolute(value, view.config.folder, view.config.variables))
    except paths.UnknownVariable:
        return None  # reported where the value is checked


def is_made(view: View, path: Path) -> bool:
    """Whether `lora` creates the file itself before the start, as it does a smoke run's model and images."""
    cache = view.config.variables.get(CACHE_VARIABLE)
    assets = view.config.run.assets
    return bool(assets and cache and path.is_relative_to(Path(cache, assets)))


def _near(path: Path) -> str | None:
    """Return a hint that names the deepest existing folder of a missing path."""
    there = next((parent for parent in path.parents if paths.exists(parent)), None)
    return f"{there} exists, {path.relative_to(there).parts[0]} in it does not" if there else None


def _subset(view: View, subset: Subset) -> Iterator[Problem]:
    for key in ("metadata_file", "conditioning_data_dir"):
        if isinstance(subset.table.get(key), str):
            yield from _missing(view, subset.table[key], (*subset.path, key), f"`{key}`")
    value = subset.table.get("image_dir")
    if not isinstance(value, str):
        return
    place = (*subset.path, "image_dir")
    folder = _resolved(view, value)
    if folder is None or is_made(view, folder):
        return
    if not (paths.exists(folder) and folder.is_dir()):
        yield from _missing(view, value, place, "`image_dir`")
    elif subset.style != "finetuning":
        yield from _images(view, subset, folder, place)


@dataclass(frozen=True)
class _Listing:
    """The files of a folder: the images, sorted, and all file names."""

    images: tuple[str, ...]
    names: frozenset[str]


def _listing(folder: Path) -> _Listing | None:
    try:
        names = frozenset(entry.name for entry in os.scandir(folder) if entry.is_file())
    except OSError:
        return None
    images = sorted(name for name in names if os.path.splitext(name)[1].lower() in _IMAGES)  # noqa: PTH122 - names, not paths
    return _Listing(tuple(images), names)


def _images(view: View, subset: Subset, folder: Path, place: KeyPath) -> Iterator[Problem]:
    listing = _listing(folder)
    if listing is None:
        yield view.config.problem(f"`image_dir`: {folder} cannot be read", place)
        return
    if not listing.images:
        deeper = any(_listing_of(child) for child in paths.below(folder))
        hint = "upstream does not look into its subfolders: give each a subset" if deeper else "give a folder of images"
        yield view.config.problem(f"`image_dir`: {folder} has no images", place, hint=hint)
        return
    yield from _captions(view, subset, folder, listing, place)


def _listing_of(folder: Path) -> bool:
    listing = _listing(folder)
    return bool(listing and listing.images)


def _captions(view: View, subset: Subset, folder: Path, listing: _Listing, place: KeyPath) -> Iterator[Problem]:
    suffix = view.value("caption_extention") or view.of_subset(subset, "caption_extension")
    if not isinstance(suffix, str):
        return
    stems = {image: os.path.splitext(image)[0] for image in listing.images}  # noqa: PTH122 - names, not paths
    missing = [image for image, stem in stems.items() if stem + suffix not in listing.names]
    if missing and not view.of_subset_text(subset, "class_tokens"):
        shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        message = f"{len(missing)} of {len(stems)} images in {folder} have no caption ({suffix}): {shown}"
        yield view.config.problem(message, place, hint=_caption_hint(stems, listing, suffix), severity="warning")
    for stem in stems.values():
        if stem + suffix in listing.names:
            yield from _caption(view, folder / (stem + suffix), place)


def _caption_hint(stems: dict[str, str], listing: _Listing, suffix: str) -> str:
    for other in _CAPTIONS:
        if other != suffix and any(stem + other in listing.names for stem in stems.values()):
            return f'there are {other} files: set caption_extension = "{other}"'
    return "upstream trains them with an empty caption; write captions, or give class_tokens"


def _caption(view: View, path: Path, place: KeyPath) -> Iterator[Problem]:
    try:
        text = read_any(path, _LONGEST)
    except OSError as exc:
        yield view.config.problem(f"caption {path} cannot be read: {exc.strerror}", place)
        return
    if not text:
        yield view.config.problem(
            f"caption {path} is empty, which upstream refuses", place, hint="write it or delete it"
        )
        return
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        yield view.config.problem(f"caption {path} is not UTF-8, which upstream refuses", place)


def _data_dir(view: View) -> Iterator[Problem]:
    """Check that `train_data_dir` has folders whose names begin with a number of repeats, such as `10_cats`."""
    folder = _resolved(view, str(view.value("train_data_dir")))
    if folder is None or not paths.exists(folder):
        return
    named = [child for child in paths.below(folder) if _repeats(child.name) > 0]
    hint = "name its folders <repeats>_<words>, such as 10_cat; or use [[datasets]]"
    if not named:
        yield view.problem(
            f"`train_data_dir`: {folder} has no folder named <repeats>_<words>", "train_data_dir", hint=hint
        )
    elif not any(_listing_of(child) for child in named):
        yield view.problem(f"`train_data_dir`: {folder} has no images", "train_data_dir")


def _repeats(name: str) -> int:
    head = name.partition("_")[0]
    return int(head) if head.isdecimal() else 0
