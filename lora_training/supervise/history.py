"""A run's history, read from its events: the values of each step, their curves with marks, its sample images."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_training import files
from lora_training.supervise import record
from lora_training.supervise.figures import Figures, number

# in bytes; the most that is read of a file at once
_CHUNK = 4 * 2**20
# the most of each that are kept: a record may be anybody's
_MARKS, _SAMPLES, _RATES = 2000, 20_000, 8
_SHOWN_IMAGES = 3
# the weight of the past in the smoothed loss
_SMOOTHING = 0.95
_Row = tuple[int, "Step | None", "Step | None", float]


@dataclass(frozen=True)
class Mark:
    """Something that happened at a step. `kind` is `bad` (skipped, died, failed), `resume`, `saved` or `note`."""

    step: int
    kind: str
    text: str
    time: float


@dataclass(frozen=True)
class Step:
    """The values of one training step; a value that is not finite or missing is NaN."""

    step: int
    loss: float
    seconds: float
    memory: float
    rates: tuple[float, ...]


@dataclass
class History:
    """The events of the run in `folder`, as far as `update` has read them; `offset` is where it goes on."""

    folder: Path
    offset: int = 0
    steps: list[Step] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    figures: Figures = field(default_factory=Figures)
    last: float = 0.0
    _file: tuple[int, int] | None = None
    _open: bool = False

    def update(self) -> None:
        """Read the events that are new; begin again where the file is another one now."""
        path = self.folder / record.EVENTS
        try:
            found = path.stat()
            if (found.st_dev, found.st_ino) != self._file or found.st_size < self.offset:
                vars(self).update(vars(History(self.folder, _file=(found.st_dev, found.st_ino))))
            for end, event in events_since(path, self.offset):
                self.offset = end
                self._take(event)
        except (OSError, EOFError):
            return

    def _take(self, event: dict[str, Any]) -> None:
        self.last = number(event.get("time"), self.last)
        try:
            self.figures.take(event)
            self._note(event)
        except (KeyError, TypeError, ValueError, ArithmeticError):
            # a line that is not as the training writes it
            return

    def _note(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "step":
                rates = tuple(number(rate) for rate in event["lr"][:_RATES])
                loss, seconds, memory = (number(event.get(name)) for name in ("loss", "seconds", "memory_mb"))
                self.steps.append(Step(int(event["step"]), loss, seconds, memory, rates))
            case "sample" if len(self.samples) < _SAMPLES:
                self.samples.append(event)
            case kind if len(self.marks) < _MARKS:
                self._mark(kind, event)

    def _mark(self, kind: str, event: dict[str, Any]) -> None:
        match kind:
            case "attempt":
                self._attempt(event)
            case "skipped":
                images = event["images"]
                shown = ", ".join(str(each).rpartition("/")[2] for each in images[:_SHOWN_IMAGES])
                more = f" and {len(images) - _SHOWN_IMAGES} more" if len(images) > _SHOWN_IMAGES else ""
                self._add("bad", f"step {event['step']} skipped, not finite: {shown}{more}", event["step"])
            case "restart":
                self._open = False
                self._add("bad", str(event["why"]))
            case "failed":
                self._add("bad", str(event["message"]), event["step"])
            case "checkpoint" | "state":
                what = "checkpoint" if kind == "checkpoint" else "state"
                self._add("saved", f"{what} saved: {str(event['path']).rpartition('/')[2]}", event["step"])
            case "note":
                self._add("note", str(event["text"]))
            case "closed":
                self._open = False
                done = event["state"] == "complete"
                why = f": {event['why']}" if event["why"] else ""
                self._add("note" if done or event["state"] == "stopped" else "bad", f"{event['state']}{why}")

    def _attempt(self, event: dict[str, Any]) -> None:
        begins = int(event["from_step"])
        if self._open:
            self._add("bad", "the run was killed: nothing was recorded after this step")
        if self.steps or begins:
            self._add("resume", f"attempt {event['number']} goes on from step {begins}", begins)
        self._open = True

    def _add(self, kind: str, text: str, step: int | None = None) -> None:
        self.marks.append(Mark(self.figures.step if step is None else int(step), kind, text, self.last))

    def curves(self, points: int, low: float = -math.inf, high: float = math.inf) -> dict[str, Any]:
        """Return the curves of a run, or of its steps from `low` to `high`, in about `points` rows."""
        found = [each for each in _merged(self.steps) if low <= each[0] <= high]
        return {
            **_columns(_thinned(found, points)),
            "all": len(found),
            "offset": self.offset,
            "smoothing": _SMOOTHING,
            # skipped steps, restarts and deaths, resumes
            "marks": [
                {"step": each.step, "kind": each.kind, "text": each.text}
                for each in self.marks
                if each.kind in ("bad", "resume")
            ],
        }


def events_since(path: Path, offset: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the complete events after a byte offset, each with the offset of its end, at which the next one begins.

    A line that is no object is passed over. Raises OSError if the file is missing, and EOFError if `offset` is not the
    end of a line in it: it is another run's file by now.
    """
    with open(path, "rb", opener=files.opener) as file:
        if not 0 <= offset <= file.seek(0, os.SEEK_END):
            raise EOFError(str(path))
        if offset:
            file.seek(offset - 1)
            if file.read(1) != b"\n":
                raise EOFError(str(path))
        file.seek(offset)
        rest = b""
        while chunk := file.read(_CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                offset += len(line) + 1
                if event := files.parsed(line):
                    yield offset, event


def _merged(steps: Sequence[Step]) -> list[_Row]:
    """Return (step, its values, its replaced values, smoothed loss), sorted by step.

    A step that was trained again after a resume has the values of the last time; those of the time before are the
    replaced ones, and so are the steps after the resume that have not been trained again yet.
    """
    kept: dict[int, Step] = {}
    replaced: dict[int, Step] = {}
    lowest = math.inf
    for each in reversed(steps):
        if each.step < lowest:
            kept[each.step], lowest = each, each.step
        else:
            replaced.setdefault(each.step, each)
    smooth = math.nan
    found = []
    for step in sorted({*kept, *replaced}):
        now = kept.get(step)
        if now and not math.isnan(now.loss):
            smooth = now.loss if math.isnan(smooth) else _SMOOTHING * smooth + (1 - _SMOOTHING) * now.loss
        found.append((step, now, replaced.get(step), smooth))
    return found


def _thinned(found: list[_Row], points: int) -> list[_Row]:
    """Return at most about `points` of the rows: of each stretch the first, the lowest and the highest loss."""
    if len(found) <= points:
        return found
    stretch = math.ceil(len(found) / (points / 3))
    kept: set[int] = {len(found) - 1}
    for start in range(0, len(found), stretch):
        part = range(start, min(start + stretch, len(found)))
        kept |= {start, min(part, key=lambda at: _loss(found[at])), max(part, key=lambda at: -_loss(found[at], -1))}
    return [found[at] for at in sorted(kept)]


def _loss(row: _Row, sign: int = 1) -> float:
    step = row[1] or row[2]
    return math.inf if step is None or math.isnan(step.loss) else sign * step.loss


def _columns(found: Sequence[_Row]) -> dict[str, Any]:
    """Return the rows as columns of JSON values, null for a missing or non-finite one."""
    rates = max((len(now.rates) for _, now, _, _ in found if now), default=0)
    now = [row[1] for row in found]
    return {
        "step": [row[0] for row in found],
        "loss": [_plain(each.loss if each else None) for each in now],
        "smooth": [_plain(row[3]) if row[1] else None for row in found],
        "replaced": [_plain(row[2].loss if row[2] else None) for row in found],
        "seconds": [_plain(each.seconds if each else None) for each in now],
        "memory": [_plain(each.memory if each else None) for each in now],
        "lr": [[_plain(each.rates[n] if each and n < len(each.rates) else None) for each in now] for n in range(rates)],
    }


def _plain(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(f"{value:.6g}")
