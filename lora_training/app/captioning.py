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
class Captions:
    """The captioning of a folder: captions written, images that had one, and unreadable ones, each with a reason."""

    here: Workspace
    request: Request
    progress: Progress
    written: list[Path] = field(default_factory=list)
    skipped: int = 0
    broken: dict[str, str] = field(default_factory=dict)

    def tag(self) -> None:
        """Tag images with upstream's WD14 tagger. Raises UpstreamError without the packages or the model."""
        missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
        if missing:
            raise UpstreamError(f"tagging needs {' and '.join(missing)}", hint="`make setup-tag` installs them")
        undesired = ["--undesired_tags", self.request.blacklist] if self.request.blacklist else []
        model = partial(models.tagger, self.here, self.request.model or TAGGER, self.progress)
        self._write("tag_images_by_wd14_tagger", lambda: ["--onnx", *model(), *undesired])

    def caption(self) -> None:
        """Caption images with BLIP. Raises UpstreamError without the model."""
        model = partial(models.blip, self.here, self.request.model, self.progress)
        self._write("make_captions", lambda: ["--caption_weights", model()])

    def _write(self, script: str, words: Callable[[], list[str]]) -> None:
        place = _place(self.here, self.request.folder)
        with transaction.shared_lock(self.here), locks.exclusive(place, name=self.request.folder):
            remaining = self._remaining()
            if not remaining:
                return
            targets.require_verified(self.here, targets.targets(self.here))
            with _staged(place / "stage", remaining) as stage:
                given = [str(stage), *words(), "--caption_extension", ".txt", *self.request.more]
                call = tool.call(self.here, script, given)
                session = Session(place)
                self._run(call, partial(self._take, stage, remaining, session))
            if left := len(remaining) - len(self.written):
                raise LoraError(f"{call.name} left out {left} images", hint="the same command tries them again")
            session.finish()

    def _remaining(self) -> list[Path]:
        """Return the images to caption: those that decode and, unless captions are overwritten, have none."""
        found = _images(self.request)
        if not found:
            inside = not self.request.recursive and _images(replace(self.request, recursive=True))
            endings = f"upstream reads {', '.join(listing.extensions()[::2])}, or all in capitals"
            hint = "`--recursive` takes those in its folders" if inside else endings
            raise ConfigError(f"there are no images in {self.request.folder}", hint=hint)
        without: dict[Path, Path] = {}
        for path in found:
            target = path.with_suffix(self.request.extension)
            if target in without or (target.exists() and not self.request.overwrites):
                self.skipped += 1
            else:
                without[target] = path
        seen = StatCache(self.here.cache / "checked", f"images {' '.join(images.formats())}")
        self.broken = scan.broken(map(str, without.values()), _unreadable, seen, "images", self.progress)
        return [path for path in without.values() if str(path) not in self.broken]

    def _run(self, call: tool.Call, take: Callable[..., None]) -> None:
        """Run a script; at each line of its progress, captions are ready."""

        def line(text: str) -> None:
            if match := _DONE.search(text):
                done, number = int(match[1]), int(match[2])
                self.progress(f"{done} of {number} ({100 * done // max(1, number)} %)")
                take()

        child = tool.launched(self.here, call, {})
        is_over = False
        try:
            proc.stream(child.argv, cwd=child.cwd, env=child.environment(os.environ), on_line=line)
            is_over = True
        except proc.ProcError as exc:
            hint = "\n".join(filter(None, (exc.hint, "the same command does the rest")))
            raise TrainingError(f"{call.name} ended with code {exc.completed.returncode}", hint=hint) from exc
        finally:
            take(is_over=is_over)
            self.progress("")

    def _take(self, stage: Path, remaining: Sequence[Path], session: Session, *, is_over: bool = False) -> None:
        """Move complete captions to their images: all but the last, which the script may still write, until the end."""
        ready = sorted(stage.glob("*.txt"))
        for staged in ready if is_over else ready[:-1]:
            text = staged.read_text(encoding="utf-8").strip("\n")
            target = remaining[int(staged.stem)].with_suffix(self.request.extension)
            session.write(target, ", ".join(filter(None, (self.request.trigger, text))) + "\n")
            self.written.append(target)
            staged.unlink()


def take_back(here: Workspace, folder: Path) -> tuple[list[Path], list[Path]]:
    """Undo the last use in a folder. Return the captions restored, and those left since they were edited."""
    place = _place(here, folder)
    with locks.exclusive(place, name=folder):
        last = newest(place)
        if last is None:
            raise ConfigError(f"there is nothing to undo in {folder}", hint="give the folder that was captioned")
        return undo(last)


def _place(here: Workspace, folder: Path) -> Path:
    """Return the folder of a data set's sessions, made if it does not exist. Its lock is held while captions change."""
    place = here.state / "captions" / hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    return place


def _unreadable(path: str) -> str | None:
    return images.wrong_format(path) or images.decode(path)


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
