"""Bring the files that a training, a tagger or a captioner loads from the network: once, with progress, and whole."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from lora_training import families, files, proc
from lora_training.app import start_checks
from lora_training.app.checkout import Checkout
from lora_training.errors import ConfigError, LoraError, UpstreamError
from lora_training.preflight import hub, weights
from lora_training.preflight.job import Job
from lora_training.workspace import Workspace

Progress = Callable[[str], None]
BLIP = "https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/model_large_caption.pth"
_COMPLETE = ".complete.json"
_SDXL = "StableDiffusionXLPipeline"
_HERE = "this is a file of this machine, which is not fetched: put it there, or give another"
_PIECE = 2**20
_DOWNLOAD = (*proc.module("huggingface_hub.cli.hf"), "download")
# the files of a tokenizer in a repository that has a model as well
_TOKENIZER = ("tokenizer*", "*.model", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json")
# the calls by which upstream loads a model from the hub, which bring the files that it needs and no others
_DIFFUSERS = """
import sys
import diffusers
name, repository, *variants = sys.argv[1:]
found = getattr(diffusers, name)
if name == "AutoencoderKL":
    try:
        found.from_pretrained(repository)
    except OSError:
        found.from_pretrained(repository, subfolder="vae")
    sys.exit()
for variant in (*variants, None):
    try:
        found.download(repository, variant=variant, tokenizer=None, safety_checker=None)
        sys.exit()
    except (OSError, ValueError):
        if variant is None:
            raise
"""
_REPOSITORY = 2  # parts of a hub id; a third is a folder in it


class Fetched(NamedTuple):
    """A repository that a training needs, whether it was brought now, and its folder."""

    repository: str
    is_new: bool
    folder: Path


def fetch(file: Path, sets: tuple[str, ...], progress: Progress) -> list[Fetched]:
    """Bring the repositories that a configuration's training loads from the hub.

    Raises UpstreamError for those that cannot be brought, after the others have been, and ConfigError for models that
    are files of this machine and are not there.
    """
    here = Checkout(None)
    config = here.load(file, sets)
    job = start_checks.job_of(here.workspace, config, here.schema(config.script), here.tree)
    done, failed = [], []
    for each in hub.needed(job):
        is_new = not each.is_here
        try:
            if is_new:
                _fetch(job, each, progress)
            done.append(Fetched(each.name, is_new, each.local if each.local and each.local.exists() else each.folder))
        except UpstreamError as exc:
            failed.append(exc)
    progress("")
    _raise_first([*failed, *(_gone(job.script, key, value) for key, value in hub.missing(job))])
    return done


def _gone(script: str, key: str, value: str) -> ConfigError:
    if refused := families.refused_hub_id(script, key, value):
        return ConfigError(refused, hint=families.GIVE_FILE)
    return ConfigError(f"`{key}`: {value} does not exist", hint=_HERE)


def _raise_first(errors: Sequence[LoraError]) -> None:
    """Raise the first of these errors, with the others in its hint."""
    if errors:
        first, *rest = errors
        lines = [first.hint, *(line for each in rest for line in (f"also: {each.message}", each.hint))]
        raise type(first)(first.message, hint="\n".join(dict.fromkeys(filter(None, lines))))


def _fetch(job: Job, wanted: hub.Repository, progress: Progress) -> None:
    why, hint = hub.refusal(wanted.name)
    if why:
        raise UpstreamError(f"cannot bring {wanted.name}: {why}", hint=hint or "give the command again with a network")
    hint = "give the command again: it goes on where it ended"
    if wanted.loader:
        variants = ["fp16"] if wanted.loader == _SDXL and job.value("mixed_precision") == "fp16" else []
        _run(wanted.name, [sys.executable, "-c", _DIFFUSERS, wanted.loader, wanted.name, *variants], progress, hint)
        return
    words = [*_DOWNLOAD, wanted.name, "--include", *_TOKENIZER, "config.json"]
    if wanted.local is None or wanted.inner:
        _run(wanted.name, words, progress, hint)
        return
    # upstream reads the folder as soon as it is there
    part = wanted.local.with_name(f"{wanted.local.name}.part")
    _run(wanted.name, [*words, "--local-dir", str(part)], progress, hint)
    part.replace(wanted.local)


def tagger(here: Workspace, model: str, progress: Progress) -> list[str]:
    """Return the arguments for a tagger: a folder with its files, or a hub id, which is brought first."""
    folder = Path(model)
    parts = model.split("/")
    names = ("model.onnx", "selected_tags.csv")
    if not folder.is_dir():
        base = here.cache / "taggers"
        folder = base / "_".join(parts[:_REPOSITORY])
        inner = "/".join(parts[_REPOSITORY:])
        names = (f"{inner}/model_optimized.onnx", f"{inner}/tag_mapping.json") if inner else names
        _bring("/".join(parts[:_REPOSITORY]), names, folder, progress)
        return ["--model_dir", str(base), "--repo_id", model]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UpstreamError(f"{folder} lacks {' and '.join(missing)}", hint="a WD14 tagger with ONNX has both")
    return ["--model_dir", str(folder.absolute().parent), "--repo_id", folder.absolute().name]


def _bring(repository: str, names: Sequence[str], folder: Path, progress: Progress) -> None:
    """Download files of a hub repository that are not complete; an interrupted download is resumed."""
    stamp = folder / _COMPLETE
    if (found := _sizes(folder, names)) and found == files.read_json(stamp):
        return
    words = [*_DOWNLOAD, repository, *names, "--local-dir", str(folder)]
    _run(repository, words, progress, "`--model FOLDER` takes one that is on this machine")
    files.write(stamp, json.dumps(_sizes(folder, names)))


def _run(repository: str, argv: Sequence[str], progress: Progress, hint: str) -> None:
    """Run a child process that downloads a repository. Raises UpstreamError with its last line."""
    try:
        proc.stream(argv, cwd=Path.cwd(), env=dict(os.environ), on_line=lambda line: progress(f"bringing {line}"))
    except proc.ProcError as exc:
        last = (exc.hint or "").splitlines()[-1:]
        raise UpstreamError(f"cannot bring {repository} from the hub", hint="\n".join([*last, hint])) from exc


def _sizes(folder: Path, names: Sequence[str]) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}


def blip(here: Workspace, model: str | None, progress: Progress) -> str:
    """Return the file of BLIP's weights; one that is given by its address is brought first."""
    place = model or BLIP
    if "://" not in place:
        path = Path(place).absolute()
        if not path.is_file():
            raise UpstreamError(f"{place} does not exist", hint="give a file, or leave --model out")
    else:
        path = here.cache / "blip" / place.rpartition("/")[2]
        if not path.is_file():
            _download(place, path, progress)
    if wrong := weights.damage(path):
        raise UpstreamError(f"{path} {wrong}", hint="remove it, and it is brought again")
    return str(path)


def _download(address: str, path: Path, progress: Progress) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with urllib.request.urlopen(address) as answer, partial.open("wb") as file:  # noqa: S310 - the user's address
            size, done = int(answer.headers.get("Content-Length") or 0), 0
            while piece := answer.read(_PIECE):
                done += file.write(piece)
                progress(
                    f"bringing {path.name}: {done // 10**6} of {size // 10**6} MB ({100 * done // max(1, size)} %)"
                )
    except (OSError, ValueError, HTTPException) as exc:
        # ValueError: not an address
        raise UpstreamError(f"cannot bring {address}: {exc}", hint="`--model FILE` takes one on this machine") from exc
    if size and done != size:
        raise UpstreamError(f"{address} ended after {done} of {size} bytes", hint="give the command again")
    partial.replace(path)
