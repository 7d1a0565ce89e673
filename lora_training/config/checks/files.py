"""Check that the files and folders of a configuration exist and are not empty."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from lora_training import files, nearest
from lora_training.config import paths
from lora_training.config.checks.view import Scope, View
from lora_training.config.files import IMAGES
from lora_training.config.positions import Path as KeyPath
from lora_training.config.schema import Flag
from lora_training.problems import Problem
from lora_training.workspace import CACHE_VARIABLE

_WINDOWS = re.compile(r"([A-Za-z]):[\\/]+(.*)")
_CAPTIONS = (".txt", ".caption", ".cap")
_MODEL = "pretrained_model_name_or_path"
# the runtime patches that the tiny models in these folders of the cache need; of other families just tiny-models
_TINY = {"smoke": ("tiny-unet",), "smoke-sd2": ("tiny-models", "tiny-unet")}
_SHOWN = 3
_COMPARED = 1000  # names in a folder, for a suggestion
_LONGEST = 2**20  # bytes of a caption file
# suffixes of flags that take folders, and of those that take files; other flags take either
_FOLDERS, _FILES = ("_dir",), ("_json", "_prompts", "_config", "_file")


def problems(view: View) -> Iterator[Problem]:
    """Yield paths that are missing, empty, without captions, or a pipe or device, which may never end."""
    for flag in view.schema.flags:
        if view.given(flag.dest) and paths.is_path(flag):
            values = view.value(flag.dest)
            for value in values if isinstance(values, list) else [values]:
                # metadata_thumbnail accepts a data URL
                if isinstance(value, str) and value and not value.startswith("data:") and _is_read(view, flag, value):
                    yield from _missing(view, value, view.path(flag.dest), f"`{flag.dest}`")
    named = view.config.run.resume
    if named not in ("auto", "never"):
        yield from _missing(view, named, ("run", "resume"), "`[run] resume`")
    for subset in view.subsets:
        yield from _subset(subset)
    if not view.config.datasets and view.given("train_data_dir"):
        yield from _data_dir(view)
    yield from _tiny(view)


def _tiny(view: View) -> Iterator[Problem]:
    """Yield the runtime patches without which upstream cannot load a smoke run's tiny model."""
    cache, path = view.config.variables.get(CACHE_VARIABLE), view.resolved(_MODEL)
    if not cache or not path or not path.is_relative_to(cache):
        return
    smoke = next(iter(path.relative_to(cache).parts), "")
    needed = _TINY.get(smoke, ("tiny-models",)) if smoke.startswith("smoke") else ()
    on = {name.replace("_", "-") for name, value in view.config.runtime.items() if value is not False}
    if lacking := [name for name in needed if name not in on]:
        hint = "copy its [runtime] tables from the file in configs/ or configs/smoke/"
        message = f"a smoke run's tiny model needs the runtime patch {' and '.join(lacking)}"
        yield view.problem(message, _MODEL, hint=hint)


def _is_read(view: View, flag: Flag, value: str) -> bool:
    """Whether upstream reads a local file or folder of this name, rather than writing it or looking on the hub."""
    is_elsewhere = paths.is_written(flag) or paths.is_hub_id(flag, value, view.config.folder)
    return bool(_WINDOWS.match(value)) or not is_elsewhere


def _missing(view: View, value: str, place: KeyPath, name: str) -> Iterator[Problem]:
    found = view.absolute(value)
    if found is None or _is_made(view, found):
        return
    if paths.exists(found):
        wrong = _kind(found, "".join(map(str, place[-1:])))
        if wrong:
            yield view.config.problem(f"{name}: {found} is {wrong}", place)
        return
    if windows := _WINDOWS.match(value):
        wsl = f"in WSL, write /mnt/{windows[1].lower()}/{windows[2]}".replace("\\", "/")
        yield view.config.problem(f"{name}: {value} is a path of Windows", place, hint=wsl)
        return
    # the deepest folder that exists
    near = next((parent for parent in found.parents if paths.exists(parent)), None)
    lacking = found.relative_to(near).parts[0] if near else ""
    # without their endings, which would make any two names alike
    stems = {PurePath(name).stem: name for name in files.names(near)[:_COMPARED]} if near else {}
    alike = nearest.name(PurePath(lacking).stem, stems)
    cure = f"did you mean `{stems[alike]}`?" if alike else "put it there, or change the path"
    hint = f"{near} exists, {lacking} in it does not: {cure}" if near else None
    yield view.config.problem(f"{name}: {found} does not exist", place, hint=hint)


def _kind(path: Path, key: str) -> str | None:
    """Return why an existing path is of the wrong kind for `key`, or None."""
    if path.is_dir():
        return "a folder, not a file" if key.endswith(_FILES) else None
    if not path.is_file():
        return "neither a file nor a folder"
    return "a file, not a folder" if key.endswith(_FOLDERS) else None


def _is_made(view: View, path: Path) -> bool:
    """Whether `lora` creates the file itself before the start, as it does a smoke run's model and images."""
    cache = view.config.variables.get(CACHE_VARIABLE)
    assets = view.config.run.assets
    return bool(assets and cache and path.is_relative_to(Path(cache, assets)))


def _subset(subset: Scope) -> Iterator[Problem]:
    view = subset.view
    for key in ("metadata_file", "conditioning_data_dir"):
        if isinstance(subset.table.get(key), str):
            yield from _missing(view, subset.table[key], (*subset.path, key), f"`{key}`")
    value = subset.table.get("image_dir")
    if not isinstance(value, str):
        return
    folder = view.absolute(value)
    if folder is None or _is_made(view, folder):
        return
    if not (paths.exists(folder) and folder.is_dir()):
        yield from _missing(view, value, (*subset.path, "image_dir"), "`image_dir`")
    elif subset.style != "finetuning":
        yield from _images(subset, folder)


def _images_of(names: Iterable[str]) -> list[str]:
    return [name for name in names if PurePath(name).suffix.lower() in IMAGES]


def _images(subset: Scope, folder: Path) -> Iterator[Problem]:
    names = files.names(folder)
    if not os.access(folder, os.R_OK | os.X_OK):
        yield subset.problem(f"`image_dir`: {folder} cannot be read", "image_dir")
    elif images := _images_of(names):
        stems = {image: PurePath(image).stem for image in images}
        yield from _captions(subset, folder, stems, frozenset(names))
    else:
        deeper = any(_images_of(files.names(folder / name)) for name in names)
        hint = "upstream does not look into its subfolders: give each a subset" if deeper else "give a folder of images"
        yield subset.problem(f"`image_dir`: {folder} has no images", "image_dir", hint=hint)


def _captions(subset: Scope, folder: Path, stems: dict[str, str], names: frozenset[str]) -> Iterator[Problem]:
    """Check the captions of a folder; `stems` has its images' names without suffix."""
    view, place = subset.view, (*subset.path, "caption_extension")
    suffix = view.value("caption_extention") or subset.value("caption_extension")
    if not isinstance(suffix, str):
        return
    missing = [image for image, stem in stems.items() if stem + suffix not in names]
    words = subset.value("class_tokens")
    if missing and not (isinstance(words, str) and words):
        shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        message = f"{len(missing)} of {len(stems)} images in {folder} have no caption ({suffix}): {shown}"
        others = [other for other in _CAPTIONS if other != suffix and any(s + other in names for s in stems.values())]
        hint = "write captions, or give class_tokens: upstream trains them with an empty caption"
        if others and len(missing) == len(stems):
            hint = f'set caption_extension = "{others[0]}": there are {others[0]} files'
        elif others:
            hint = f"rename the {others[0]} files of these images to {suffix}"
        yield view.config.problem(message, place, hint=hint, severity="warning")
    for stem in stems.values():
        if stem + suffix in names:
            yield from _caption(view, folder / (stem + suffix), place)


def _caption(view: View, path: Path, place: KeyPath) -> Iterator[Problem]:
    try:
        text = files.read_any(path, _LONGEST)
    except OSError as exc:
        yield view.config.problem(f"caption {path} cannot be read: {exc.strerror}", place)
        return
    if not text:
        message = f"caption {path} is empty, which upstream refuses"
        yield view.config.problem(message, place, hint="write it or delete it")
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        message = f"caption {path} is not UTF-8, which upstream refuses"
        yield view.config.problem(message, place, hint=files.as_utf8(path, text))


def _data_dir(view: View) -> Iterator[Problem]:
    """Check that `train_data_dir` has folders whose names begin with a number of repeats, such as `10_cats`."""
    folder = view.absolute(str(view.value("train_data_dir")))
    if folder is None or not paths.exists(folder):
        return
    named = files.repeated(folder)
    if not named:
        message = f"`train_data_dir`: {folder} has no folder named <repeats>_<words>"
        hint = "name its folders <repeats>_<words>, such as 10_cat; or use [[datasets]]"
        yield view.problem(message, "train_data_dir", hint=hint)
    elif not any(_images_of(files.names(each)) for each in named):
        yield view.problem(f"`train_data_dir`: {folder} has no images", "train_data_dir")
