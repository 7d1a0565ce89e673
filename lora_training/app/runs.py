"""The runs that a checkout has started: find one, stop it, and return what its record says."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lora_training import files
from lora_training.errors import LoraError
from lora_training.supervise import backup, record, run_index, states
from lora_training.supervise.history import History
from lora_training.supervise.record import Record
from lora_training.workspace import Workspace


def find(here: Workspace, name: str, *, alive: bool = False) -> tuple[Path, Record]:
    """Return the run with that name, folder or LoRA: of several, a running one if `alive` is set, else not a rerun."""
    found = run_index.runs(here)
    path = Path(name).absolute()
    matching = [(folder, run) for folder, run in found if name == run.name or path in (folder, Path(run.output))]
    if not matching:
        # not in the index: of another checkout, or of one whose index is not writable
        places = dict.fromkeys((path, path.with_name(f"{path.stem}.run") if path.name else path))
        matching = [(folder, run) for folder in places if (run := record.read(folder))]
    if not matching:
        known = ", ".join(dict.fromkeys(run.name for _, run in found)) or "none yet"
        raise LoraError(f"there is no run {name!r}", hint=f"runs: {known}")
    if len(matching) > 1:
        going = [pair for pair in matching if alive and record.is_alive(pair[0])]
        matching = going or [pair for pair in matching if pair[1].rerun_of is None] or matching
    if len(matching) > 1:
        folders = "\n".join(str(folder) for folder, _ in matching)
        raise LoraError(f"there are {len(matching)} runs {name!r}", hint=f"name one by its folder:\n{folders}")
    return matching[0]


def stop(folder: Path, run: Record) -> None:
    """Request that a run saves its state at its next step and ends."""
    if not record.is_alive(folder):
        raise LoraError(f"{run.name} is not running", hint="`lora runs list` shows the running ones")
    try:
        files.touch(folder / record.STOP)
    except OSError as exc:
        hint = "the user who started it can: the run waits for a file named `stop` there"
        raise LoraError(f"cannot write to {folder}: {exc.strerror}", hint=hint) from None


def end(folder: Path, run: Record) -> None:
    """Make a run end at once and save nothing, as a second Ctrl-C does: for a training that does not react."""
    stop(folder, run)
    if not _has_open(run.pid, folder / record.LOCK):
        raise LoraError(f"the process of {run.name} cannot be seen from here", hint="end it where it was started")
    # each counts as one request; the stop file is the first
    for signum in (signal.SIGINT, signal.SIGTERM):
        os.kill(run.pid, signum)


def _has_open(pid: int, path: Path) -> bool:
    """Return whether the process that a record names has a file of the run open: its number may be another's by now."""
    with contextlib.suppress(OSError):
        return any(each.exists() and each.samefile(path) for each in Path(f"/proc/{pid}/fd").iterdir())
    return False


def state(folder: Path, run: Record) -> str:
    """Return the state that the record names, or `died` for a run whose process ended without recording it."""
    return "died" if run.state == "running" and not record.is_alive(folder) else run.state


def summary(folder: Path, run: Record) -> dict[str, Any]:
    """Return the record of a run, for JSON."""
    return {"folder": str(folder), **asdict(run), "state": state(folder, run)}


def samples(folder: Path) -> str | None:
    """Return the folder of the run's sample images; None if it has none."""
    return str(folder / record.SAMPLES) if (folder / record.SAMPLES).is_dir() else None


def document(folder: Path, run: Record) -> dict[str, Any]:
    """Return the record of a run and the files beside it, for JSON."""
    # imported here, since the other commands about runs need nothing of it
    from lora_training.app import recording

    return {
        **summary(folder, run),
        "samples": samples(folder),
        "resolved": recording.config(folder),
        "inputs": recording.read(folder, recording.INPUTS) or None,
        "environment": recording.read(folder, recording.ENVIRONMENT) or None,
    }


def outcome(folder: Path, run: Record) -> Iterator[str]:
    """Yield what a run has come to: loss, time, checkpoints, and where its samples and logs are."""
    history = History(folder)
    history.update()
    figures = history.figures
    if figures.known:
        yield f"loss      {figures.losses()}"
        yield f"time      {figures.took()}"
    output = Path(run.output)
    with contextlib.suppress(OSError, ValueError):
        kept = {"checkpoint": backup.checkpoints(output), "state": states.folders(output)}
        words = [f"{len(found)} {what}{'s' * (len(found) != 1)}" for what, found in kept.items() if found]
        if words:
            yield f"saves     {', '.join(words)} in {output.parent}"
    if drawn := samples(folder):
        yield f"samples   {drawn}"
    if run.tensorboard:
        yield f"logs      {run.tensorboard} (TensorBoard)"
