"""Every file and folder that a configuration names, so that a container can mount them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_training.config import encode, paths, tomlout
from lora_training.config.argv import dataset_document
from lora_training.workspace import CACHE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lora_training.config.model import Config
    from lora_training.config.schema import Flag, Schema

# folders of images: upstream writes caches beside each image
_IMAGES = ("image_dir", "train_data_dir", "reg_data_dir")
_METADATA = ("metadata_file", "in_json")
# the swap folder of DeepSpeed, which is written to although its name does not say so
_SWAP = "offload_"
_CACHE = f"${{{CACHE_VARIABLE}}}"


@dataclass(frozen=True)
class Place:
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


def places(config: Config, schema: Schema) -> tuple[Place, ...]:
    """Return each path that `config` and its metadata files name, without hub ids.

    The configuration must have been checked. Raises ConfigError as `dataset_document` does.
    """
    beside = _writes_beside(config)
    found = [place for key, flag in _flags(config, schema) for place in _named(config, key, flag, beside=beside)]
    found += [_read(str(keys[-1]), value, beside=beside) for keys, value in _datasets(config)]
    listed = [image for place in found if place.key in _METADATA for image in _listed(place.path)]
    return (*found, *(Place("metadata", folder, written=beside) for folder in dict.fromkeys(listed)))


def rewrites(config: Config, schema: Schema) -> tuple[str, ...]:
    """Return `--set` items with every `~` and `${}` path expanded, for an environment where they differ."""
    found = []
    for key, flag in _flags(config, schema):
        raw, resolved = config.entries[key].value, _words(config, key, flag)
        if any(isinstance(word, str) and _means_more(word) for word in (raw if isinstance(raw, list) else [raw])):
            found.append(f"{key}={_inline(resolved) if isinstance(raw, list) else resolved[0]}")
    whole = {"general": dict(config.general), "datasets": list(config.datasets)}
    for keys, value in _datasets(config):
        if _means_more(_at(whole, keys)):
            found.append(f"{'.'.join(map(str, keys))}={value}")
    if config.run.resume not in ("auto", "never"):
        found.append(f"run.resume={config.run.resume}")
    return tuple(found)


def _inline(values: list[str]) -> str:
    """Return a TOML list on one line. Single values are not quoted: a path that starts with `/` is taken literally."""
    return f"[{', '.join(map(tomlout.string, values))}]"


def _means_more(text: Any) -> bool:
    """Whether a value resolves differently elsewhere. The cache folder is the same in both environments."""
    return isinstance(text, str) and (text.startswith("~") or "${" in text.replace(_CACHE, ""))


def _flags(config: Config, schema: Schema) -> Iterator[tuple[str, Flag]]:
    for key in config.entries:
        flag = schema.flag(key)
        if flag is not None and paths.is_path(flag):
            yield key, flag


def _words(config: Config, key: str, flag: Flag) -> list[str]:
    """Return the values that the flag will get."""
    first, *rest = encode.words(flag, config.entries[key], config.folder, config.variables)
    name, equals, value = first.partition("=")
    return [value] if equals and name in flag.options else [word for word in rest if word != first]


def _named(config: Config, key: str, flag: Flag, *, beside: bool) -> Iterator[Place]:
    for value in _words(config, key, flag):
        if not os.path.isabs(value):  # noqa: PTH117 - a hub id is no path
            continue
        if paths.is_written(flag):
            yield Place(flag.dest, Path(value), written=True, made=True)
        else:
            yield _read(flag.dest, value, beside=beside)


def _read(key: str, value: str, *, beside: bool) -> Place:
    return Place(key, Path(value), written=key.startswith(_SWAP) or (beside and key in _IMAGES))


def _writes_beside(config: Config) -> bool:
    """Whether upstream writes files beside the images."""
    tables: list[Mapping[str, Any]] = [config.values, config.general, *config.datasets]
    tables += [subset for dataset in config.datasets for subset in dataset.get("subsets", [])]
    flags = (key for key, value in config.values.items() if value is True)
    to_disk = any(key.startswith("cache_") and key.endswith("_to_disk") for key in flags)
    return to_disk or any(table.get("cache_info") is True for table in tables)


def _datasets(config: Config) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Return the paths in upstream's dataset configuration, each with its key path."""
    document = dataset_document(config)
    yield from _strings(document, ()) if document else ()


def _strings(value: Any, keys: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key != "custom_attributes":
                yield from _strings(item, (*keys, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _strings(item, (*keys, number))
    elif isinstance(value, str) and keys and paths.is_path_key(str(keys[-1])):
        yield keys, value


def _at(whole: Any, keys: tuple[str | int, ...]) -> Any:
    for key in keys:
        whole = whole[key]
    return whole


def _listed(metadata: Path) -> Iterator[Path]:
    """Return the image folders that a metadata file names by absolute paths."""
    try:
        images = json.loads(metadata.read_bytes())
    except (OSError, ValueError):
        return
    for name in images if isinstance(images, dict) else ():
        if os.path.isabs(name):  # noqa: PTH117
            yield Path(name).parent
