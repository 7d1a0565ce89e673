"""The figures and files of a run for display, derived each time from its record, its lock and its events."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from lora_training import files
from lora_training.app import runs
from lora_training.supervise import record, run_index
from lora_training.supervise.history import History
from lora_training.supervise.record import Record
from lora_training.workspace import Workspace

# the end of a log that is shown, in bytes and lines
_LOG, _LOG_LINES = 32 * 1024, 200
_KEPT = 500


class Histories:
    """The histories of runs, each read on from where it was. Nothing is lost with them: they are read again."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[threading.Lock, History]] = {}

    def of(self, folder: Path) -> History:
        """Return the history of the run in `folder`, up to date."""
        if len(self._known) > _KEPT:
            self._known.clear()
        lock, history = self._known.setdefault(folder, (threading.Lock(), History(folder)))
        with lock:
            history.update()
        return history


def rows(here: Workspace, histories: Histories) -> list[dict[str, Any]]:
    """Return the figures of every run, newest first."""
    return [row(folder, run, histories.of(folder)) for folder, run in run_index.runs(here)]


def row(folder: Path, run: Record, history: History) -> dict[str, Any]:
    """Return the figures of a run. Seconds per step and the time left are those of its last attempt."""
    figures = history.figures
    state = runs.state(folder, run)
    alive = state == "running"
    began = bool(run.attempts) or bool(history.steps)
    return {
        "id": run_index.ident(folder),
        "name": run.name,
        "state": state,
        "stopping": alive and (folder / record.STOP).exists(),
        "why": run.why if state != "died" else "its process was killed; Resume goes on from its newest state",
        "step": figures.step,
        "total": figures.total,
        "loss": figures.loss() if figures.known else None,
        "each": f"{figures.each:.3g}" if figures.known else None,
        "left": figures.left() if alive and figures.known else None,
        "started": run.started,
        "attempts": len(run.attempts),
        "config": run.config,
        "output": run.output,
        "rerun": run.rerun_of is not None,
        "made_by": run.made_by,
        "miniature": run.is_miniature,
        "preparing": alive and not figures.known and began,
        "tensorboard": run.tensorboard,
    }


def files_of(run: Record) -> list[dict[str, Any]]:
    """Return the LoRA and the checkpoints of a run, newest first, each with an id; only these can be downloaded."""
    output = Path(run.output)
    found = []
    for path in (output, *runs.saves(run)["checkpoint"]):
        try:
            stat = path.lstat()
        except (OSError, ValueError):
            continue
        found.append({"id": run_index.ident(path.name), "name": path.name, "size": stat.st_size, "time": stat.st_mtime})
    return sorted(found, key=lambda each: (each["name"] != output.name, -each["time"]))


def file_of(run: Record, ident: str) -> Path | None:
    """Return the file of a run with that id; None if it is not one of its files."""
    return next((Path(run.output).with_name(each["name"]) for each in files_of(run) if each["id"] == ident), None)


def samples_of(history: History) -> dict[str, Any]:
    """Return the sample images as a grid: prompts, and for each step the image of each prompt or None.

    Of two images of one step and prompt the later one counts, since a resume makes them again.
    """
    found = [each for each in map(_sample, history.samples) if each]
    places = {(each["step"], each["number"]): each for each in found}
    prompts = {each["number"]: each for each in found}
    columns = sorted(prompts)
    lines = [(step, [places.get((step, at)) for at in columns]) for step in sorted({step for step, _ in places})]
    return {"prompts": [prompts[at] for at in columns], "lines": lines}


def _sample(event: dict[str, Any]) -> dict[str, Any] | None:
    step, number, path = event.get("step"), event.get("number"), event.get("path")
    if not isinstance(step, int) or not isinstance(number, int) or not isinstance(path, str):
        return None
    name = path.rpartition("/")[2]
    told = {key: str(event[key]) if event.get(key) is not None else None for key in ("prompt", "seed")}
    return {"id": run_index.ident(name), "name": name, "step": step, "number": number, **told}


def sample_file(folder: Path, history: History, ident: str) -> Path | None:
    """Return the sample image with that id, which is in the run's own folder; None if no event names it."""
    found = filter(None, map(_sample, history.samples))
    return next((folder / record.SAMPLES / each["name"] for each in found if each["id"] == ident), None)


def log_of(run: Record, number: int = 0) -> Path | None:
    """Return the log of an attempt (0: the last one), which is in the run's own folder; None without one."""
    return next(iter(run.logs[number - 1 :]), None)


def log_tail(path: Path | None) -> str:
    """Return the last lines of a log."""
    if path is None:
        return ""
    try:
        with open(path, "rb", opener=files.opener) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG))
            text = file.read(_LOG).decode("utf-8", "replace")
    except (OSError, ValueError):
        return ""
    return "\n".join(text.splitlines()[-_LOG_LINES:])
