"""The files and folders that a configuration names: those a training reads, and those a container must mount.

The configuration must have been checked. Hub ids are left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from lora_training import files, tomls
from lora_training.config import document, encode, paths
from lora_training.config.argv import dataset_document, dataset_paths
from lora_training.config.model import Config
from lora_training.config.schema import Flag, Schema
from lora_training.workspace import CACHE_VARIABLE

# flags that name the data when `[[datasets]]` is not used
DATA = ("dataset_config", "train_data_dir", "reg_data_dir", "in_json", "conditioning_data_dir")
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl"})
_CAPTIONS = frozenset({".txt", ".caption"})
_EXTENSIONS = ("caption_extension", "caption_extention")
# folders of images: upstream writes caches beside each image
_FOLDERS = ("image_dir", "train_data_dir", "reg_data_dir")
_METADATA = ("metadata_file", "in_json")
# the swap folder of DeepSpeed, which is written to although its name does not say so
_SWAP = "offload_"
_CACHE = f"${{{CACHE_VARIABLE}}}"


def _flags(config: Config, schema: Schema) -> Iterator[tuple[Flag, str, Any]]:
    """Yield the flags that name paths: the flag, the configuration's key, and the value with absolute paths."""
    for key, entry in config.entries.items():
        flag = schema.flag(key)
        if flag is not None and paths.is_path(flag):
            yield flag, key, encode.resolved(flag, entry, config.resolve)


def _absolute(value: Any) -> list[Path]:
    texts = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]
    return [Path(text) for text in texts if Path(text).is_absolute()]


def _subsets(table: Any) -> Iterator[dict[str, Any]]:
    """Yield the subsets of a dataset configuration."""
    datasets = table.get("datasets", []) if isinstance(table, dict) else []
    for dataset in datasets if isinstance(datasets, list) else []:
        yield from (subset for subset in dataset.get("subsets", []) if isinstance(subset, dict))


# -- files that the training reads


@dataclass(frozen=True)
class Inputs:
    """Absolute file paths. `dataset`: images, captions and metadata files; `models`: all other files that are read."""

    dataset: tuple[Path, ...]
    models: tuple[Path, ...]


def inputs(config: Config, schema: Schema) -> Inputs:
    """Return the files that the training will read. Folders are listed when this is called.

    Files that upstream creates, such as cached latents, are left out.
    """
    named = {flag.dest: _absolute(value) for flag, _, value in _flags(config, schema) if not paths.is_written(flag)}
    suffixes = IMAGES | _CAPTIONS | set(_caption_suffixes(config))
    data = [path for key, found in named.items() if key in DATA for path in found]
    datasets = dataset_document(config)
    tables = [datasets] if datasets else [_parsed(path) for path in data if path.suffix in (".toml", ".json")]
    dataset = [file for path in data for file in _listed(path, suffixes)]
    dataset += [file for table in tables for file in _of_tables(table, suffixes, schema.tree or Path())]
    models = [file for key, found in named.items() if key not in DATA for path in found for file in _listed(path)]
    return Inputs(tuple(sorted(set(dataset))), tuple(sorted(set(models))))


def _caption_suffixes(config: Config) -> Iterator[str]:
    yield from (str(value) for key, value in config.values.items() if key in _EXTENSIONS)
    for table in (dict(config.general), *config.datasets, *_subsets({"datasets": list(config.datasets)})):
        yield str(table.get(_EXTENSIONS[0], ".caption"))


def _of_tables(table: Any, suffixes: Collection[str], tree: Path) -> Iterator[Path]:
    """Return the files of upstream's dataset configuration, whose relative paths are relative to upstream's folder."""
    for subset in _subsets(table):
        given = {
            key: tree / value for key, value in subset.items() if isinstance(value, str) and paths.is_path_key(key)
        }
        listing = given.pop("metadata_file", None)
        for path in given.values():
            # only files that a metadata file lists may be in subfolders
            yield from _listed(path, suffixes, deep=listing is not None)
        if listing is not None:
            yield from _listed(listing)
            yield from (Path(name) for name in _parsed(listing) if Path(name).is_absolute() and paths.is_file(name))


def _parsed(path: Path) -> dict[str, Any]:
    """Parse a TOML or JSON document; empty if it is invalid, which upstream reports."""
    try:
        text = files.read_any(path, files.LISTING).decode("utf-8")
        found = tomls.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _listed(path: Path, suffixes: Collection[str] | None = None, *, deep: bool = True) -> Iterator[Path]:
    """Return the file itself, or the regular files in a folder, limited to `suffixes` if given."""
    if not path.is_dir():
        if path.is_file():
            yield path
        return
    for folder, below, names in os.walk(path):
        if not deep:
            below.clear()
        wanted = (name for name in names if suffixes is None or PurePath(name).suffix.lower() in suffixes)
        yield from (file for name in wanted if paths.is_file(file := Path(folder, name)))


# -- folders that a container must mount


@dataclass(frozen=True)
class NamedPath:
    """An absolute path that a key names.

    `written`: the training writes there. `made`: the training creates it if it is missing.
    """

    key: str
    path: Path
    written: bool = False
    made: bool = False

    @property
    def folder(self) -> Path:
        """The folder that must exist before the training: the path itself, or the parent of a file to be written."""
        return self.path.parent if self.made and self.key.endswith("_file") else self.path


def named_paths(config: Config, schema: Schema) -> tuple[NamedPath, ...]:
    """Return each path that `config` and its metadata files name. Raises ConfigError as `dataset_document` does."""
    beside = _writes_beside(config)
    found = []
    for flag, _, value in _flags(config, schema):
        is_made = paths.is_written(flag)
        written = is_made or flag.dest.startswith(_SWAP) or (beside and flag.dest in _FOLDERS)
        found += [NamedPath(flag.dest, path, written=written, made=is_made) for path in _absolute(value)]
    for keys, text in dataset_paths(dataset_document(config) or {}):
        key = str(keys[-1])
        found.append(NamedPath(key, Path(text), written=beside and key in _FOLDERS))
    listed = (Path(name) for each in found if each.key in _METADATA for name in _parsed(each.path))
    folders = dict.fromkeys(path.parent for path in listed if path.is_absolute())
    return (*found, *(NamedPath("metadata", folder, written=beside) for folder in folders))


def _writes_beside(config: Config) -> bool:
    """Whether upstream writes files beside the images."""
    subsets = _subsets({"datasets": list(config.datasets)})
    tables: list[Mapping[str, Any]] = [config.values, config.general, *config.datasets, *subsets]
    flags = (key for key, value in config.values.items() if value is True)
    to_disk = any(key.startswith("cache_") and key.endswith("_to_disk") for key in flags)
    return to_disk or any(table.get("cache_info") is True for table in tables)


def expanded_sets(config: Config, schema: Schema) -> tuple[str, ...]:
    """Return `--set` items with every `~` and `${}` path expanded, for an environment where they differ."""
    found = []
    for _, key, value in _flags(config, schema):
        given = config.entries[key].value
        if any(map(_is_expanded, given if isinstance(given, list) else [given])):
            # a single value is not quoted: a path that starts with `/` is taken literally
            text = f"[{', '.join(map(document.toml_string, value))}]" if isinstance(value, list) else value
            found.append(f"{key}={text}")
    for keys, text in dataset_paths(dataset_document(config) or {}):
        if _is_expanded(document.value_at({"general": config.general, "datasets": config.datasets}, keys)):
            found.append(f"{'.'.join(map(str, keys))}={text}")
    if config.run.resume not in ("auto", "never"):
        found.append(f"run.resume={config.run.resume}")
    return tuple(found)


def _is_expanded(text: Any) -> bool:
    """Whether a value resolves differently elsewhere. The cache folder is the same in both environments."""
    return isinstance(text, str) and (text.startswith("~") or "${" in text.replace(_CACHE, ""))
