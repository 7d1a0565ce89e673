"""The files that a training reads: its data set, its models, and other files that flags name.

Files that upstream creates, such as cached latents, are left out.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_training import files
from lora_training.config import encode, paths
from lora_training.config.argv import dataset_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lora_training.config.model import Config
    from lora_training.config.schema import Schema

_READ = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl", ".txt", ".caption"})
# flags that name the data when `[[datasets]]` is not used
DATA = ("dataset_config", "train_data_dir", "reg_data_dir", "in_json", "conditioning_data_dir")
_EXTENSIONS = ("caption_extension", "caption_extention")


@dataclass(frozen=True)
class Inputs:
    """Absolute file paths. `dataset`: images, captions and metadata files; `models`: all other files that are read."""

    dataset: tuple[Path, ...]
    models: tuple[Path, ...]


def inputs(config: Config, schema: Schema) -> Inputs:
    """Return the files that the training will read. Folders are listed when this is called; hub ids are left out."""
    named = dict(_named(config, schema))
    suffixes = _READ | {str(named_suffix) for named_suffix in _suffixes(config)}
    data = [Path(path) for key, found in named.items() if key in DATA for path in found]
    dataset = [file for path in data for file in _files(path, suffixes)]
    document = dataset_document(config)
    tables = [document] if document else [_parsed(path) for path in data if path.suffix in (".toml", ".json")]
    dataset += [file for table in tables for file in _of_tables(table, suffixes, schema.tree)]
    models = [file for key, found in named.items() if key not in DATA for path in found for file in _files(Path(path))]
    return Inputs(tuple(sorted(set(dataset))), tuple(sorted(set(models))))


def _named(config: Config, schema: Schema) -> Iterator[tuple[str, list[str]]]:
    """Return the absolute paths that each flag names."""
    for entry in config.entries.values():
        flag = schema.flag(entry.key)
        if flag is not None and paths.is_path(flag) and not paths.is_written(flag):
            value = encode.resolved(flag, entry, config.folder, config.variables)
            values = value if isinstance(value, list) else [value]
            yield flag.dest, [each for each in values if isinstance(each, str) and os.path.isabs(each)]  # noqa: PTH117 - text


def _suffixes(config: Config) -> Iterator[Any]:
    yield from (value for key, value in config.values.items() if key in _EXTENSIONS)
    subsets = [subset for table in config.datasets for subset in table.get("subsets", [])]
    for table in (dict(config.general), *config.datasets, *subsets):
        yield table.get(_EXTENSIONS[0], ".caption")


def _of_tables(table: Any, suffixes: frozenset[str] | set[str], tree: Path | None) -> Iterator[Path]:
    """Return the files of upstream's dataset configuration, whose relative paths are relative to upstream's folder."""
    for subset in _subsets(table):
        given = {key: (tree or Path()) / value for key, value in subset.items() if _is_path(key, value)}
        listing = given.get("metadata_file")
        for key, path in given.items():
            # only files that a metadata file lists may be in subfolders
            yield from _files(path, suffixes, deep=listing is not None) if key != "metadata_file" else _files(path)
        if listing is not None:
            yield from (Path(name) for name in _parsed(listing) if os.path.isabs(name) and os.path.isfile(name))  # noqa: PTH113, PTH117 - text


def _is_path(key: str, value: Any) -> bool:
    return paths.is_path_key(key) and isinstance(value, str)


def _subsets(table: Any) -> Iterator[dict[str, Any]]:
    datasets = table.get("datasets", []) if isinstance(table, dict) else []
    for dataset in datasets if isinstance(datasets, list) else []:
        yield from (subset for subset in dataset.get("subsets", []) if isinstance(subset, dict))


def _parsed(path: Path) -> dict[str, Any]:
    """Parse a TOML or JSON document; empty if it is invalid, which upstream reports."""
    from lora_training import tomls

    try:
        text = files.read_any(path, files.LISTING).decode("utf-8")
        found = tomls.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _files(path: Path, suffixes: frozenset[str] | set[str] | None = None, *, deep: bool = True) -> Iterator[Path]:
    """Return the file itself, or the regular files in a folder, limited to `suffixes` if given."""
    if not path.is_dir():
        if path.is_file():
            yield path
        return
    for folder, below, names in os.walk(path):
        if not deep:
            below.clear()
        for name in names:
            wanted = suffixes is None or os.path.splitext(name)[1].lower() in suffixes  # noqa: PTH122 - names, not paths
            if wanted and os.path.isfile(os.path.join(folder, name)):  # noqa: PTH113, PTH118 - the same
                yield Path(folder, name)
