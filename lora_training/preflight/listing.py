"""List the images that a training will read, by the same rules as upstream's datasets.

The rules are those of upstream's `library/{dataset,dreambooth_dataset,finetuning_dataset,controlnet_dataset,
config_util}.py`. File names are strings, as in upstream; there may be a hundred thousand.
"""

from __future__ import annotations

import io
import json
import mimetypes
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import Any

from lora_training import families, files
from lora_training.preflight.job import Job

_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# plugins that add suffixes to upstream's list; PIL opens such files once the plugin is imported
_PLUGINS = {"pillow_avif": ".avif", "jxlpy.JXLImagePlugin": ".jxl", "pillow_jxl": ".jxl"}
_LONGEST = 2**20  # bytes of a dataset configuration; upstream's TOML reader is slow
_INFO_CACHE = "metadata_cache.json"
# options whose flag is a switch, and those whose flag takes a text
_SWITCHES = ("flip_aug", "cache_info", "alpha_mask", "enable_bucket", "bucket_no_upscale", "enable_wildcard")
_TEXTS = ("caption_extension", "caption_separator")
_NUMBERS = ("batch_size", "num_repeats", "bucket_reso_steps", "min_bucket_reso", "max_bucket_reso")


class Unreadable(Exception):
    """A file that should list images cannot be parsed."""


@dataclass(frozen=True)
class Subset:
    """The images of one of upstream's subsets, in its order, and its options with all fallbacks applied.

    `extra` has images that belong to these one to one, such as a ControlNet's conditioning images. `is_finetuning`
    means that a metadata file lists the images; cached latents can then replace them. `dataset` is the number of the
    data set that it belongs to, whose subsets share their buckets.
    """

    name: str
    images: tuple[str, ...]
    options: Mapping[str, Any]
    extra: tuple[str, ...] = ()
    is_finetuning: bool = False
    dataset: int = 0

    @property
    def repeats(self) -> int:
        """The number of times that an epoch uses each image."""
        return int(self.options.get("num_repeats") or 1)

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of `resolution`, if given."""
        return _pair(self.options.get("resolution"))

    @property
    def passed_over(self) -> int:
        """The area up to which upstream skips an image."""
        width, height = _pair(self.options.get("skip_image_resolution")) or (0, 0)
        return width * height


def subsets(job: Job) -> list[Subset]:
    """Return every subset that upstream would use, including empty ones. Raises Unreadable."""
    found: list[Subset] = []
    try:
        document = _document(job)
        for number, dataset in enumerate(document.get("datasets", [])):
            first: dict[str, Subset] = {}
            for table in dataset.get("subsets", []):
                subset = replace(_subset(job, table, dataset, document.get("general", {})), dataset=number)
                # upstream takes the first subset of each name, and skips subsets with fewer than one repeat
                if subset.options.get("num_repeats", 1) >= 1:
                    first.setdefault(subset.name, subset)
            found += first.values()
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise Unreadable(f"{job.value('dataset_config') or 'this'} is no dataset configuration: {exc}") from exc
    return found


def _document(job: Job) -> Mapping[str, Any]:
    if job.dataset is not None:
        return job.dataset
    if path := job.value("dataset_config"):
        return _read_config(_absolute(job, path))
    folder = job.value("train_data_dir")
    if job.value("in_json"):
        table = {"metadata_file": job.value("in_json"), **({"image_dir": folder} if folder else {})}
        return {"datasets": [{"subsets": [table]}]}
    tables = [*_numbered(job, folder, is_reg=False), *_numbered(job, job.value("reg_data_dir"), is_reg=True)]
    return {"datasets": [{"subsets": tables}]}


def _read_config(path: str) -> Mapping[str, Any]:
    """Parse a dataset configuration in upstream's own format, TOML or JSON."""
    import toml

    parse = json.loads if path.lower().endswith(".json") else toml.loads
    return _table(path, lambda: parse(files.read_any(path, _LONGEST).decode("utf-8")), "has no datasets")


def _table(path: str, read: Callable[[], Any], otherwise: str) -> dict[str, Any]:
    """Return the table that `read` finds in the file `path`. Raises Unreadable, with `otherwise` if it is none."""
    try:
        found = read()
    except (OSError, ValueError, IndexError, KeyError, TypeError, RecursionError) as exc:
        raise Unreadable(f"{path} cannot be read: {exc}") from exc
    if not isinstance(found, dict):
        raise Unreadable(f"{path} {otherwise}")
    return found


def _numbered(job: Job, folder: str | None, *, is_reg: bool) -> list[dict[str, Any]]:
    """Return a subset for each folder in `folder` that is named <repeats>_<words>."""
    found = files.repeated(job.cwd / folder) if folder else {}
    return [{"image_dir": str(path), "num_repeats": repeats, "is_reg": is_reg} for path, repeats in found.items()]


def _subset(job: Job, table: Mapping[str, Any], dataset: Mapping[str, Any], general: Mapping[str, Any]) -> Subset:
    options = {**_from_flags(job), **general, **dataset, **table}
    for key in _NUMBERS:
        if not isinstance(options.get(key, 1), int):
            raise TypeError(f"`{key}` must be a whole number, not {options[key]!r}")
    folder = _absolute(job, table["image_dir"]) if table.get("image_dir") else None
    if "metadata_file" in table and "conditioning_data_dir" not in table:
        path = _absolute(job, table["metadata_file"])
        return Subset(path, tuple(_listed(path, folder)), options, is_finetuning=True)
    images = tuple(_folder(folder or "", cached=bool(options.get("cache_info"))))
    if "conditioning_data_dir" not in table:
        return Subset(folder or "", images, options)
    beside = _absolute(job, table["conditioning_data_dir"])
    pairs = [_first(beside, os.path.splitext(os.path.basename(image))[0]) for image in images]
    return Subset(folder or "", images, options, tuple(pair for pair in pairs if pair))


def _from_flags(job: Job) -> dict[str, Any]:
    """Return the relevant options that a dataset configuration takes from flags."""
    found: dict[str, Any] = {key: True for key in _SWITCHES if job.on(key)}
    found |= {key: job.value(key) for key in _TEXTS if job.value(key)}
    for key in _NUMBERS:
        number = job.number(families.OPTION_FLAGS.get(key, key))
        found |= {key: int(number)} if number is not None else {}
    for key in ("resolution", "skip_image_resolution"):
        numbers = [int(part) for part in (job.value(key) or "").split(",") if part.strip().isdecimal()]
        found |= {key: numbers} if numbers else {}
    return found


def _pair(given: Any) -> tuple[int, int] | None:
    sides = given if isinstance(given, list | tuple) else [given]
    whole = sides and all(isinstance(side, int) and side > 0 for side in sides)
    return (sides[0], sides[-1]) if whole else None


def _absolute(job: Job, path: str) -> str:
    return os.path.join(job.cwd, path)


@cache
def extensions() -> tuple[str, ...]:
    """Return the suffixes that upstream looks for, in lower and upper case but not mixed."""
    more = {ending for plugin, ending in _PLUGINS.items() if _imports(plugin)}
    return tuple(case for ending in (*_EXTENSIONS, *sorted(more)) for case in (ending, ending.upper()))


def _imports(plugin: str) -> bool:
    # upstream ignores any failure to import it
    with suppress(Exception):
        return bool(import_module(plugin))
    return False


def _folder(folder: str, *, cached: bool) -> list[str]:
    """Return the images directly in a folder; hidden files are skipped, as by `glob`."""
    if cached and os.path.isfile(os.path.join(folder, _INFO_CACHE)):
        return list(entries(os.path.join(folder, _INFO_CACHE)))
    endings = extensions()
    return [os.path.join(folder, name) for name in files.names(folder) if name[0] != "." and name.endswith(endings)]


def unread(subsets: Iterable[Subset]) -> dict[str, str]:
    """Return the pictures, videos and folders of images beside the images that upstream passes over, with details."""
    known = {path for each in subsets for path in (*each.images, *each.extra, each.name)}
    known |= {os.path.dirname(path) for path in known}
    found = {}
    for folder in dict.fromkeys(each.name for each in subsets if not each.is_finetuning):
        paths = (os.path.join(folder, name) for name in files.names(folder) if name[0] != ".")
        for path in (path for path in paths if path not in known):
            inside = sum(name.endswith(extensions()) for name in files.names(path))
            if inside or (mimetypes.guess_type(path)[0] or "").startswith(("image/", "video/")):
                found[path] = f"a folder with {inside} of them" if inside else os.path.splitext(path)[1]
    return found


def _listed(path: str, folder: str | None) -> Iterator[str]:
    """Return the images that a metadata file names; for missing files, each known suffix is tried."""
    for key in entries(path):
        if not os.path.isabs(key) and folder is None:
            raise Unreadable(f"{path} names {key}, for which `image_dir` is needed")
        image = os.path.join(folder or "", key)
        if not os.path.splitext(key)[1] or not os.path.exists(image):
            image = _first(os.path.dirname(image), os.path.basename(key)) or image
        yield image


def entries(path: str) -> dict[str, Any]:
    """Return the entries of a metadata file by the names of images: a JSON object, or one object a line."""

    def read() -> Any:
        data = files.read_any(path, files.LISTING)
        if path.endswith(".jsonl"):
            lines = map(json.loads, io.StringIO(data.decode("utf-8")))
            return {str(line["image_path"]): line for line in lines}
        return json.loads(data)

    return _table(path, read, "is no table of images")


def _first(folder: str, stem: str) -> str | None:
    return min(
        (path for end in extensions() if os.path.lexists(path := os.path.join(folder, stem + end))), default=None
    )
