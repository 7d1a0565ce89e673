"""Every file and folder that a configuration names, for whoever has to bring them to where the training is."""

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

# folders of images: caches are written beside each image
_IMAGES = ("image_dir", "train_data_dir", "reg_data_dir")
_METADATA = ("metadata_file", "in_json")
# a swap on disk, which DeepSpeed writes although its name does not say so
_SWAP = "offload_"
_CACHE = f"${{{CACHE_VARIABLE}}}"


@dataclass(frozen=True)
class Place:
    """What a key names, absolute. `written`: the training writes there. `made`: and makes it where it is missing."""

    key: str
    path: Path
    written: bool = False
    made: bool = False

    @property
    def folder(self) -> Path:
        """What has to be there before the training: the folder itself, or the one of a file to be written."""
        return self.path.parent if self.made and self.key.endswith("_file") else self.path


def places(config: Config, schema: Schema) -> tuple[Place, ...]:
    """Each place that `config` names, hub ids left out, and those that its metadata files name.

    For a configuration that has been checked. Raises ConfigError as `dataset_document`.
    """
    beside = _writes_beside(config)
    found = [place for key, flag in _flags(config, schema) for place in _named(config, key, flag, beside=beside)]
    found += [_read(str(keys[-1]), value, beside=beside) for keys, value in _datasets(config)]
    listed = [image for place in found if place.key in _METADATA for image in _listed(place.path)]
    return (*found, *(Place("metadata", folder, written=beside) for folder in dict.fromkeys(listed)))


def rewrites(config: Config, schema: Schema) -> tuple[str, ...]:
    """`--set` items that give each path with `~` or `${}` as it is here, for where these mean something else."""
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
    """A list on one line. A single value needs no quotes: what begins with a slash is no TOML, and taken as it is."""
    return f"[{', '.join(map(tomlout.string, values))}]"


def _means_more(text: Any) -> bool:
    """Whether a value stands for another one elsewhere. The cache's place is the same for both."""
    return isinstance(text, str) and (text.startswith("~") or "${" in text.replace(_CACHE, ""))


def _flags(config: Config, schema: Schema) -> Iterator[tuple[str, Flag]]:
    for key in config.entries:
        flag = schema.flag(key)
        if flag is not None and paths.is_path(flag):
            yield key, flag


def _words(config: Config, key: str, flag: Flag) -> list[str]:
    """The values that the flag will be given."""
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
    """Whether upstream keeps anything beside the images."""
    tables: list[Mapping[str, Any]] = [config.values, config.general, *config.datasets]
    tables += [subset for dataset in config.datasets for subset in dataset.get("subsets", [])]
    flags = (key for key, value in config.values.items() if value is True)
    to_disk = any(key.startswith("cache_") and key.endswith("_to_disk") for key in flags)
    return to_disk or any(table.get("cache_info") is True for table in tables)


def _datasets(config: Config) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The paths in upstream's dataset configuration, each with its keys from the top."""
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
    """The folders of images that a metadata file names by their whole path."""
    try:
        images = json.loads(metadata.read_bytes())
    except (OSError, ValueError):
        return
    for name in images if isinstance(images, dict) else ():
        if os.path.isabs(name):  # noqa: PTH117
            yield Path(name).parent
