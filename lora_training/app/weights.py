"""Describe a weights file by its header, and the differences of two. No torch, and no tensor's data but alphas."""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lora_training import files, safetensors_header
from lora_training.config.importers import metadata as importer
from lora_training.errors import ConfigError
from lora_training.preflight import checkpoints, contents
from lora_training.safetensors_header import Header

_RANKS = re.compile(r"\.(?:lora_down\.weight|lora_A\.weight|hada_w1_b|lokr_w1_b|lokr_w2_b)$")
_MODULE = re.compile(r"\.(?:lora_|hada_|lokr_|oft_|alpha$|dora_scale$|diff(?:_b)?$)")
_PART = re.compile(r"(?:lora_)?(te\d*|text_encoder(?:_\d)?|unet|transformer|diffusion_model)[_.]")
# The families of a LoRA without metadata, by the beginnings of its names; the first match decides.
_SIGNS = {
    "SDXL": ("lora_te1_", "lora_te2_", "lora_unet_input_blocks_"),
    "FLUX.1": ("lora_unet_double_blocks_", "lora_unet_single_blocks_", "transformer.single_transformer_blocks."),
    "SD 3": ("lora_unet_joint_blocks_",),
    "SD 1.x or 2.x": ("lora_te_", "lora_unet_down_blocks_", "lora_unet_mid_block_"),
}
_UNKNOWN = "a family that its names do not tell"
_ALPHAS = {"F32": "<f", "F16": "<e", "F64": "<d", "I64": "<q", "I32": "<i"}
# Names of tensors, the characters of a value, and how many of these at least follow from where two values differ.
_SHOWN, _WIDEST, _REST = 10, 60, 20
# What made the file, in the metadata of sd-scripts, of this project, and of the modelspec standard.
_MADE = {
    "network": ("ss_network_module", "ss_network_args"),
    "base model": ("ss_sd_model_name", "ss_base_model_version"),
    "steps": ("ss_steps", "ss_max_train_steps", "ss_epoch"),
    "optimizer": ("ss_optimizer", "ss_learning_rate", "ss_lr_scheduler"),
    "made by": ("ss_sd_scripts_commit_hash", "lora_config", "lora_patches"),
    "file": ("modelspec.title", "modelspec.date"),
}


def describe(path: Path) -> dict[str, Any]:
    """Describe a file; ranks, alphas, types and parts with their numbers. Raises ConfigError if it is not whole."""
    header = _read(path)
    found = header.tensors
    modules = {name[: match.start()] for name in found if (match := _MODULE.search(name))}
    ranks = Counter(each["shape"][0] for name, each in found.items() if _RANKS.search(name) and each["shape"])
    told = header.metadata
    made = {about: {key: str(told[key]) for key in keys if key in told} for about, keys in _MADE.items()}
    return {
        "path": str(path),
        "size": path.stat().st_size,
        "kind": _kind(header, is_lora=bool(modules)),
        "tensors": len(found),
        "numbers": sum(math.prod(each["shape"]) for each in found.values()),
        "parts": dict(Counter(match[1] if (match := _PART.match(name)) else "other" for name in sorted(modules))),
        "ranks": dict(sorted(ranks.items())),
        "alphas": dict(sorted(Counter(_alphas(path, header)).items())),
        "dtypes": dict(Counter(each["dtype"] for each in found.values())),
        "made": {about: words for about, words in made.items() if words},
    }


def _read(path: Path) -> Header:
    try:
        contents.tensors(path)  # checks them
        return safetensors_header.read(path)
    except safetensors_header.Damaged as exc:
        raise ConfigError(f"{path} {exc}", hint=contents.mend(str(exc))) from exc
    except OSError as exc:
        hint = files.alike(path, ".safetensors", "give the path of a .safetensors file")
        raise ConfigError(f"{path} cannot be read: {exc.strerror or exc}", hint=hint) from exc


def _kind(header: Header, *, is_lora: bool) -> str:
    if not is_lora:
        shapes = {name: entry["shape"] for name, entry in header.tensors.items()}
        return checkpoints.kind(shapes) or (f"a model of {_UNKNOWN}" if shapes else "no tensors")
    told = header.metadata.get("modelspec.architecture") or importer.script(dict(header.metadata))
    signs = (family for family, starts in _SIGNS.items() if any(name.startswith(starts) for name in header.tensors))
    return f"a LoRA for {told.removesuffix('/lora') if told else next(signs, _UNKNOWN)}"


def _data(path: Path, header: Header) -> dict[str, memoryview]:
    """Return the bytes of each tensor, which are read when they are looked at."""
    with open(path, "rb", opener=files.opener_of_any) as file:
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    data = whole[len(whole) - header.data :]
    return {name: data[slice(*entry["data_offsets"])] for name, entry in header.tensors.items()}


def _alphas(path: Path, header: Header) -> Iterator[float]:
    for name, data in _data(path, header).items():
        dtype = header.tensors[name]["dtype"]
        # BF16 is the upper half of a float32
        form, whole = ("<f", b"\0\0" + bytes(data[:2])) if dtype == "BF16" else (_ALPHAS.get(dtype), data)
        if name.endswith(".alpha") and form and len(whole) == struct.calcsize(form):
            yield round(float(struct.unpack(form, whole)[0]), 4)


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Compare two files, tensor by tensor, and their metadata. Raises ConfigError."""
    head, head2 = _read(one), _read(other)
    first, second = ({name: _form(entry) for name, entry in each.tensors.items()} for each in (head, head2))
    common = [name for name in first if name in second]
    shapes = {name: (first[name], second[name]) for name in common if first[name] != second[name]}
    data, data2 = _data(one, head), _data(other, head2)
    values = [name for name in common if name not in shapes and data[name] != data2[name]]
    pairs = {
        key: (head.metadata.get(key), head2.metadata.get(key)) for key in sorted({*head.metadata, *head2.metadata})
    }
    return {
        "only_first": [name for name in first if name not in second],
        "only_second": [name for name in second if name not in first],
        "shapes": shapes,
        "values": values,
        "same": len(common) - len(shapes) - len(values),
        "metadata": {key: pair for key, pair in pairs.items() if pair[0] != pair[1]},
    }


def _form(entry: Mapping[str, Any]) -> str:
    return f"{entry['dtype']} {'x'.join(map(str, entry['shape'])) or 'scalar'}"


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Return a description as lines of text."""
    yield f"{found['path']}: {found['kind']}, {found['size'] / 10**6:.1f} MB"
    modules = f" in {sum(found['parts'].values())} modules: {_counted(found['parts'])}" if found["parts"] else ""
    yield f"  tensors     {found['tensors']}{modules}; {found['numbers']} numbers: {_counted(found['dtypes'])}"
    yield from (f"  {key:11} {_counted(found[key])}" for key in ("ranks", "alphas") if found[key])
    for about, words in found["made"].items():
        told = (f"{key.removeprefix('ss_').removeprefix('modelspec.')} {word}" for key, word in words.items())
        yield f"  {about:11} {', '.join(told)}"


def _counted(found: Mapping[Any, int]) -> str:
    return ", ".join(f"{name} ({number})" for name, number in found.items())


def difference_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Return the differences as lines of text."""
    yield f"tensors with the same values: {found['same']}"
    for what, names in (
        ("with other values", found["values"]),
        ("in the first alone", found["only_first"]),
        ("in the second alone", found["only_second"]),
        ("of another type or shape", [f"{name} ({a}, {b})" for name, (a, b) in found["shapes"].items()]),
    ):
        if names:
            yield f"tensors {what}: {len(names)}"
            yield from (f"  {name}" for name in names[:_SHOWN])
            yield from [f"  and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    for key, pair in found["metadata"].items():
        words = ["(none)" if each is None else str(each) for each in pair]
        other = (at for at, (one, two) in enumerate(zip(*words, strict=False)) if one != two)
        start = max(0, next(other, min(map(len, words))) + _REST - _WIDEST)
        yield f"{key}: {' | '.join('...' * bool(start) + word[start : start + _WIDEST] for word in words)}"
