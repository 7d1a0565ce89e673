"""Check that the weight files that a training loads are complete and of the right kind."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lora_training import families, files
from lora_training.preflight import checkpoints, contents
from lora_training.preflight.job import Job
from lora_training.problems import Problem
from lora_training.safetensors_header import Damaged

MODEL = "pretrained_model_name_or_path"
# upstream's flags for weights: a file, a folder in diffusers' format, or a hub id
KEYS = (
    *(MODEL, "vae", "clip_l", "clip_g", "t5xxl", "ae", "gemma2", "text_encoder", "byt5", "qwen3"),
    *("llm_adapter_path", "controlnet_model_name_or_path", "network_weights", "base_weights"),
)
_TENSORS = (".safetensors", ".sft")
_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_FOLLOW: dict[str | None, Callable[[Path], str]] = {"resolved": os.path.realpath, "linked": os.readlink}
_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "transformer")


def problems(job: Job) -> Iterator[Problem]:
    """Yield the problems of all weight files. Missing files are reported by the check of the configuration."""
    for key in KEYS:
        for value in job.values(key):
            for message, hint in _one(job, key, Path(job.cwd, value)):
                yield Problem(f"`{key}`: {message}", hint, key=key)


def _one(job: Job, key: str, path: Path) -> Iterator[tuple[str, str | None]]:
    try:
        if path.is_dir():
            yield from _folder(job, key, path)
        elif path.exists():
            yield from _file(job, key, path)
    except OSError as exc:
        yield f"{exc.filename or path} cannot be read: {exc.strerror or exc}", None


def _file(job: Job, key: str, path: Path) -> Iterator[tuple[str, str | None]]:
    wrong = damage(path)
    if wrong:
        yield f"{path} {wrong}", contents.mend(wrong)
        return
    if key == MODEL:
        yield from _links(job, path)
    if path.suffix.lower() in _TENSORS:
        kind = checkpoints.kind({name: tensor.shape for name, tensor in contents.tensors(path).items()})
        mismatch = None
        if kind:
            part = key != MODEL
            mismatch = checkpoints.part_mismatch(job.script, key, kind) if part else checkpoints.mismatch(job, kind)
        if mismatch:
            yield f"{path} {mismatch[0]}", mismatch[1]


def damage(path: Path) -> str | None:
    """Return the problem with a weight file, or None. Reads only its start and end. Raises OSError."""
    if path.suffix.lower() in _TENSORS:
        try:
            contents.tensors(path)
        except Damaged as exc:
            return str(exc)
        return None
    start = contents.start(path)
    if other := contents.kind(start):
        return f"is {other}"
    # `torch.save` writes zip files, whose directory is at the end
    is_zip = start.startswith(b"PK\x03\x04") and path.suffix.lower() in _PICKLES
    if is_zip and not zipfile.is_zipfile(path):
        return f"is cut off or damaged, after {path.stat().st_size} bytes"
    return None


def _links(job: Job, path: Path) -> Iterator[tuple[str, str | None]]:
    """Check that a link's target has the right suffix, since upstream goes by the target's name.

    In the hub's own cache, links point to files without a suffix.
    """
    follow = _FOLLOW.get(families.of(job.script).pickle_unless)
    if follow is None or not path.is_symlink():
        return
    target = Path(job.cwd, follow(path))
    hint = f"give the file itself, or a hard link or copy of it that ends in {path.suffix}"
    if not target.exists():
        yield f"{path} is a relative link, which upstream follows from another folder, to {target}", hint
    elif path.suffix.lower() == ".safetensors" and target.suffix.lower() != ".safetensors":
        yield f"{path} is a link to {target.name}, which upstream takes for a pickle, by its name", hint


def _folder(job: Job, key: str, path: Path) -> Iterator[tuple[str, str | None]]:
    """Check a folder in diffusers' format: its index, the folders of its parts, and their weights."""
    parts = [path]
    if key == MODEL and families.of(job.script).pipeline:
        index = path / "model_index.json"
        if not index.exists():
            yield (
                f"{path} has no model_index.json, so it is no model in diffusers' format",
                "give a file, or that folder",
            )
            return
        model = _json(index)
        if model is None:
            yield f"{index} is damaged", "fetch it again"
            return
        mismatch = checkpoints.pipeline(job, str(model.get("_class_name")))
        if mismatch:
            yield f"{path} {mismatch[0]}", mismatch[1]
        parts = [path / name for name in _PARTS if isinstance(model.get(name), list) and any(model[name][:1])]
    for part in parts:
        yield from _part(part, is_needed=part != path)


def _part(folder: Path, *, is_needed: bool) -> Iterator[tuple[str, str | None]]:
    """Check one part's weights: safetensors if present, else pickles. Of several variants, one complete is enough."""
    present = sorted(folder.iterdir()) if folder.is_dir() else []
    weights = [p for p in present if p.suffix == ".safetensors"] or [p for p in present if p.suffix == ".bin"]
    if is_needed and not weights:
        yield f"{folder} has no weights", "fetch the model again"
    wrong = {file: why for file in weights if (why := damage(file))}
    for file, why in wrong.items():
        if "-of-" in file.name or len(wrong) == len(weights):
            yield f"{file} {why}", contents.mend(why)
    for index in (p for p in present if p.name.endswith(".safetensors.index.json")):
        listed = (_json(index) or {}).get("weight_map")
        names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
        missing = [name for name in names if not (folder / name).exists()]
        if missing or not names:
            yield f"{folder} lacks {', '.join(missing) or 'a readable index'}", "fetch the model again"


def _json(path: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads(files.read_any(path))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
