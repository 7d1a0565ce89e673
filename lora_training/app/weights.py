"""Describe a weights file by its header, and the differences of two. No torch, and no tensor's data but alphas."""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_training import files, safetensors_header
from lora_training.config.importers import metadata as importer
from lora_training.errors import ConfigError
from lora_training.preflight import checkpoints, contents

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from lora_training.safetensors_header import Header

_RANKS = re.compile(r"\.(?:lora_down\.weight|lora_A\.weight|hada_w1_b|lokr_w1_b|lokr_w2_b)$")
_MODULE = re.compile(r"\.(?:lora_|hada_|lokr_|oft_|alpha$|dora_scale$|diff(?:_b)?$)")
# The families of a LoRA without metadata, by the beginnings of its names; the first match decides.
_SIGNS = {
    "SDXL": ("lora_te1_", "lora_te2_", "lora_unet_input_blocks_"),
    "FLUX.1": ("lora_unet_double_blocks_", "lora_unet_single_blocks_", "transformer.single_transformer_blocks."),
    "SD 3": ("lora_unet_joint_blocks_",),
    "SD 1.x or 2.x": ("lora_te_", "lora_unet_down_blocks_", "lora_unet_mid_block_"),
}
_PARTS = re.compile(r"lora_(te\d*|unet|transformer)_|(text_encoder(?:_\d)?|unet|transformer|diffusion_model)\.")
_ALPHAS = {"F32": "<f", "F16": "<e", "F64": "<d"}
_PIECE = 2**24
_SHOWN = 10
# What made the file, in the metadata of sd-scripts, of this project, and of the modelspec standard.
_MADE = {
    "network": ("ss_network_module", "ss_network_args"),
    "base model": ("ss_sd_model_name", "ss_base_model_version"),
    "steps": ("ss_steps", "ss_max_train_steps", "ss_epoch"),
    "optimizer": ("ss_optimizer", "ss_learning_rate", "ss_lr_scheduler"),
    "sd-scripts": ("ss_sd_scripts_commit_hash", "modelspec.implementation_version"),
    "lora": ("lora_config", "lora_upstream", "lora_patches"),
    "date": ("modelspec.date",),
    "title": ("modelspec.title",),
}


@dataclass(frozen=True)
class Described:
    """A weights file: `ranks`, `alphas` and `dtypes` with the number of tensors, `parts` with that of modules."""

    path: str
    size: int
    kind: str
    tensors: int
    numbers: int
    parts: Mapping[str, int]
    ranks: Mapping[int, int]
    alphas: Mapping[float, int]
    dtypes: Mapping[str, int]
    made: Mapping[str, Mapping[str, str]]


def describe(path: Path) -> Described:
    """Describe a file. Raises ConfigError if it is no whole safetensors file."""
    found, header = _read(path)
    modules = {name[: match.start()] for name in found if (match := _MODULE.search(name))}
    ranks = Counter(each.shape[0] for name, each in found.items() if _RANKS.search(name) and each.shape)
    told = header.metadata
    made = {about: {key: str(told[key]) for key in keys if key in told} for about, keys in _MADE.items()}
    return Described(
        path=str(path),
        size=path.stat().st_size,
        kind=_kind(header, is_lora=bool(modules)),
        tensors=len(found),
        numbers=sum(math.prod(each.shape) for each in found.values()),
        parts=dict(Counter(_part(name) for name in sorted(modules))),
        ranks=dict(sorted(ranks.items())),
        alphas=dict(sorted(Counter(_alphas(path, header)).items())),
        dtypes=dict(Counter(each.dtype for each in found.values())),
        made={about: words for about, words in made.items() if words},
    )


def _read(path: Path) -> tuple[Mapping[str, contents.Tensor], Header]:
    try:
        return contents.tensors(path), safetensors_header.read(path)
    except safetensors_header.Damaged as exc:
        raise ConfigError(f"{path} {exc}", hint=contents.mend(str(exc))) from exc
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror or exc}") from exc


def _kind(header: Header, *, is_lora: bool) -> str:
    if not is_lora:
        shapes = {name: entry["shape"] for name, entry in header.tensors.items()}
        return checkpoints.kind(shapes) or "a model of a family that its names do not tell"
    told = header.metadata.get("modelspec.architecture") or importer.script(dict(header.metadata))
    signs = (family for family, starts in _SIGNS.items() if any(name.startswith(starts) for name in header.tensors))
    told = told and told.removesuffix("/lora")
    return f"a LoRA for {told or next(signs, 'a family that its names do not tell')}"


def _part(name: str) -> str:
    match = _PARTS.match(name)
    return (match[1] or match[2]) if match else "other"


def _alphas(path: Path, header: Header) -> Iterator[float]:
    entries = [entry for name, entry in header.tensors.items() if name.endswith(".alpha")]
    start = path.stat().st_size - header.data
    with open(path, "rb", opener=files.opener_of_any) as file:
        for entry in entries:
            file.seek(start + entry["data_offsets"][0])
            data = file.read(entry["data_offsets"][1] - entry["data_offsets"][0])
            # BF16 is the upper half of a float32
            form, data = ("<f", b"\0\0" + data) if entry["dtype"] == "BF16" else (_ALPHAS.get(entry["dtype"]), data)
            if form and len(data) == struct.calcsize(form):
                yield round(struct.unpack(form, data)[0], 4)


# -- two files


@dataclass(frozen=True)
class Difference:
    """What differs between two files: tensors in one alone, of another type or shape, with other values; metadata."""

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    shapes: Mapping[str, tuple[str, str]]
    values: tuple[str, ...]
    same: int
    metadata: Mapping[str, tuple[str | None, str | None]]


def compare(one: Path, other: Path) -> Difference:
    """Compare two files, tensor by tensor. Raises ConfigError."""
    (first, head), (second, head2) = _read(one), _read(other)
    common = [name for name in first if name in second]
    shapes = {name: (_form(first[name]), _form(second[name])) for name in common if first[name] != second[name]}
    values = tuple(_unequal(one, head, other, head2, [name for name in common if name not in shapes]))
    keys = sorted({*head.metadata, *head2.metadata})
    pairs = {key: (head.metadata.get(key), head2.metadata.get(key)) for key in keys}
    return Difference(
        tuple(name for name in first if name not in second),
        tuple(name for name in second if name not in first),
        shapes,
        values,
        len(common) - len(shapes) - len(values),
        {key: pair for key, pair in pairs.items() if pair[0] != pair[1]},
    )


def _form(tensor: contents.Tensor) -> str:
    return f"{tensor.dtype} {'x'.join(map(str, tensor.shape)) or 'scalar'}"


def _unequal(one: Path, head: Header, other: Path, head2: Header, names: list[str]) -> Iterator[str]:
    starts = one.stat().st_size - head.data, other.stat().st_size - head2.data
    with open(one, "rb", opener=files.opener_of_any) as file, open(other, "rb", opener=files.opener_of_any) as file2:
        for name in names:
            begin, end = head.tensors[name]["data_offsets"]
            file.seek(starts[0] + begin)
            file2.seek(starts[1] + head2.tensors[name]["data_offsets"][0])
            pieces = (min(_PIECE, end - at) for at in range(begin, end, _PIECE))
            if any(file.read(size) != file2.read(size) for size in pieces):
                yield name


# -- text


def lines(found: Described) -> Iterator[str]:
    """Return a description as lines of text."""
    yield f"{found.path}: {found.kind}, {found.size / 10**6:.1f} MB"
    modules = f" in {sum(found.parts.values())} modules ({_counted(found.parts)})" if found.parts else ""
    yield f"  tensors     {found.tensors}{modules}, {found.numbers} numbers, {_counted(found.dtypes)}"
    if found.ranks:
        yield f"  ranks       {_counted(found.ranks)}"
    if found.alphas:
        yield f"  alphas      {_counted(found.alphas)}"
    for about, words in found.made.items():
        yield f"  {about:11} {', '.join(_told(*pair) for pair in words.items())}"
    if not found.made:
        yield "  made by     nothing that its metadata tell"


def _told(key: str, word: str) -> str:
    return f"{key.removeprefix('ss_').removeprefix('modelspec.')} {word}"


def _counted(found: Mapping[Any, int]) -> str:
    if len(found) == 1:
        return str(next(iter(found)))
    return ", ".join(f"{name} ({number})" for name, number in found.items())


def difference_lines(found: Difference) -> Iterator[str]:
    """Return the differences as lines of text."""
    yield f"tensors with the same values: {found.same}"
    for what, names in (
        ("with other values", found.values),
        ("in the first alone", found.only_first),
        ("in the second alone", found.only_second),
        ("of another type or shape", [f"{name} ({a}, {b})" for name, (a, b) in found.shapes.items()]),
    ):
        if names:
            yield f"tensors {what}: {len(names)}"
            yield from (f"  {name}" for name in names[:_SHOWN])
            yield from [f"  and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    for key, (one, other) in found.metadata.items():
        yield f"{key}: {_short(one)} | {_short(other)}"


def _short(text: object) -> str:
    shown = "(none)" if text is None else str(text)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."  # noqa: PLR2004 - characters
