"""Bring the models that tag and caption images: once, with progress, and whole."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from lora_training import files, proc
from lora_training.errors import UpstreamError
from lora_training.preflight import weights
from lora_training.workspace import Workspace

Progress = Callable[[str], None]
BLIP = "https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/model_large_caption.pth"
_COMPLETE = ".complete.json"
_PIECE = 2**20
_REPOSITORY = 2  # parts of a hub id; a third is a folder in it


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
    """Download files of a hub repository that are not complete. huggingface_hub checks what is there, and goes on."""
    stamp = folder / _COMPLETE
    if _sizes(folder, names) == _recorded(stamp):
        return
    argv = [*proc.module("huggingface_hub.cli.hf"), "download", repository, *names, "--local-dir", str(folder)]
    try:
        proc.stream(argv, cwd=Path.cwd(), env=dict(os.environ), on_line=lambda line: progress(f"bringing {line}"))
    except proc.ProcError as exc:
        last = (exc.hint or "").splitlines()[-1:]
        hint = "\n".join([*last, "`--model FOLDER` takes one that is on this machine"])
        raise UpstreamError(f"cannot bring {repository} from the hub", hint=hint) from exc
    files.write(stamp, json.dumps(_sizes(folder, names)))


def _sizes(folder: Path, names: Sequence[str]) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}


def _recorded(stamp: Path) -> object:
    try:
        return json.loads(stamp.read_bytes())
    except (OSError, ValueError):
        return None


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
    except OSError as exc:
        raise UpstreamError(f"cannot bring {address}: {exc}", hint="`--model FILE` takes one on this machine") from exc
    if size and done != size:
        raise UpstreamError(f"{address} ended after {done} of {size} bytes", hint="give the command again")
    partial.replace(path)
