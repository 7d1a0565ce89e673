"""Tag or caption a folder of images with upstream's scripts, without harm to captions that are there."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from lora_training import locks, proc
from lora_training.app import models, targets, tool
from lora_training.dataset.undo import Session, newest, undo
from lora_training.errors import ConfigError, LoraError, TrainingError, UpstreamError
from lora_training.patching import transaction
from lora_training.preflight import images, listing, scan
from lora_training.stat_cache import StatCache
from lora_training.workspace import Workspace

Progress = Callable[[str], None]
TAGGER = "SmilingWolf/wd-v1-4-convnext-tagger-v2"  # upstream's default
_DONE = re.compile(r"\b(\d+)/(\d+) \[")  # tqdm's line


@dataclass(frozen=True)
class Request:
    """What to caption, and how. `more` are further arguments of upstream's script."""

    folder: Path
    model: str | None = None
    extension: str = ".txt"
    trigger: str | None = None
    blacklist: str | None = None
    overwrites: bool = False
    recursive: bool = False
    more: tuple[str, ...] = ()


@dataclass
class Outcome:
    """The captions written, the images that had one already, and those that cannot be read, with the reason."""

    written: list[Path] = field(default_factory=list)
    skipped: int = 0
    broken: dict[str, str] = field(default_factory=dict)


def tag(here: Workspace, request: Request, progress: Progress) -> Outcome:
    """Tag images with upstream's WD14 tagger. Raises UpstreamError without the packages or the model."""
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UpstreamError(f"tagging needs {' and '.join(missing)}", hint="`make setup-tag` installs them")
    model = partial(models.tagger, here, request.model or TAGGER, progress)
    undesired = ["--undesired_tags", request.blacklist] if request.blacklist else []
    return _write(here, request, "tag_images_by_wd14_tagger", lambda: ["--onnx", *model(), *undesired], progress)


def caption(here: Workspace, request: Request, progress: Progress) -> Outcome:
    """Caption images with BLIP. Raises UpstreamError without the model."""
    model = partial(models.blip, here, request.model, progress)
    return _write(here, request, "make_captions", lambda: ["--caption_weights", model()], progress)


def take_back(here: Workspace, folder: Path) -> tuple[list[Path], list[Path]]:
    """Undo the last use in a folder. Return the captions restored, and those left since they were edited."""
    place = _place(here, folder)
    with locks.exclusive(place, name=folder):
        last = newest(place)
        if last is None:
            raise ConfigError(f"there is nothing to undo in {folder}")
        return undo(last)


def _place(here: Workspace, folder: Path) -> Path:
    """Return the folder of what is needed to undo, made if it is not there. Who writes captions holds its lock."""
    place = here.state / "captions" / hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    return place


def _write(
    here: Workspace, request: Request, script: str, words: Callable[[], list[str]], progress: Progress
) -> Outcome:
    outcome = Outcome()
    place = _place(here, request.folder)
    with transaction.shared_lock(here), locks.exclusive(place, name=request.folder):
        remaining = _remaining(here, request, outcome, progress)
        if remaining:
            targets.require_verified(here, targets.targets(here))
            with _staged(place / "stage", remaining) as stage:
                given = [str(stage), *words(), "--caption_extension", ".txt", *request.more]
                call = tool.call(here, script, given)
                harvest = Harvest(stage, remaining, request, Session(place), outcome, progress)
                _run(here, call, harvest)
    return outcome


def _remaining(here: Workspace, request: Request, outcome: Outcome, progress: Progress) -> list[Path]:
    """Return the images to caption: those that decode and, unless captions are overwritten, have none."""
    found = _images(request)
    if not found:
        inside = not request.recursive and _images(replace(request, recursive=True))
        endings = ", ".join(listing.extensions()[::2])
        hint = "`--recursive` takes those in its folders" if inside else f"upstream reads {endings}, or all in capitals"
        raise ConfigError(f"there are no images in {request.folder}", hint=hint)
    without: dict[Path, Path] = {}
    for path in found:
        target = path.with_suffix(request.extension)
        if target in without or (target.exists() and not request.overwrites):
            outcome.skipped += 1
        else:
            without[target] = path
    names = [str(path) for path in without.values()]
    seen = StatCache(here.cache / "checked", f"images {' '.join(images.formats())}")
    outcome.broken = scan.broken(
        names, lambda path: images.wrong_format(path) or images.decode(path), seen, "images", progress
    )
    return [path for path in without.values() if str(path) not in outcome.broken]


def _images(request: Request) -> list[Path]:
    every = request.folder.rglob("*") if request.recursive else request.folder.iterdir()
    endings = listing.extensions()
    return sorted(path.absolute() for path in every if path.name.endswith(endings) and path.name[0] != ".")


@contextmanager
def _staged(stage: Path, remaining: Sequence[Path]) -> Iterator[Path]:
    """Yield a folder of numbered links to the images: upstream writes beside each image, and ends at a bad one."""
    shutil.rmtree(stage, ignore_errors=True)  # of a process that was killed
    stage.mkdir()
    try:
        for number, path in enumerate(remaining):
            (stage / f"{number:08}{path.suffix}").symlink_to(path)
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@dataclass
class Harvest:
    """Moves captions from the stage to their images while the script runs."""

    stage: Path
    remaining: Sequence[Path]
    request: Request
    session: Session
    outcome: Outcome
    progress: Progress

    def line(self, text: str) -> None:
        """Take a line of the script's output: at each of its progress lines, captions are ready."""
        match = _DONE.search(text)
        if match:
            done, number = int(match[1]), int(match[2])
            self.progress(f"{done} of {number} ({100 * done // max(1, number)} %)")
            self.take()

    def take(self, *, is_over: bool = False) -> None:
        """Move the captions that are complete: all but the last, which the script may still write, until it is over."""
        ready = sorted(self.stage.glob("*.txt"))
        for staged in ready if is_over else ready[:-1]:
            image = self.remaining[int(staged.stem)]
            text = staged.read_text(encoding="utf-8").strip("\n")
            words = [each for each in (self.request.trigger, text) if each]
            target = image.with_suffix(self.request.extension)
            self.session.write(target, ", ".join(words) + "\n")
            self.outcome.written.append(target)
            staged.unlink()


def _run(here: Workspace, call: tool.Call, harvest: Harvest) -> None:
    child = tool.launched(here, call, {})
    is_over = False
    try:
        proc.stream(child.argv, cwd=child.cwd, env=child.environment(os.environ), on_line=harvest.line)
        is_over = True
    except proc.ProcError as exc:
        hint = "\n".join(filter(None, (exc.hint, "the same command does the rest")))
        raise TrainingError(f"{call.name} ended with code {exc.completed.returncode}", hint=hint) from exc
    finally:
        harvest.take(is_over=is_over)
        harvest.progress("")
    left = len(harvest.remaining) - len(harvest.outcome.written)
    if left:
        raise LoraError(f"{call.name} left out {left} images", hint="the same command tries them again")
    harvest.session.finish()
