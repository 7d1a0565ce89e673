"""The runs that a checkout has started: find one, stop it, and return what its record and its logs say."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lora_training import files, nearest, shell
from lora_training.errors import LoraError
from lora_training.supervise import backup, jobs, record, run_index, states
from lora_training.supervise.figures import Figures
from lora_training.supervise.history import History
from lora_training.supervise.record import Record
from lora_training.workspace import Workspace

_CHUNK = 1 << 20
_POLL_S = 0.2
GONE = "`lora runs show FOLDER/NAME` finds a run that was moved there; `lora runs prune` clears the list of those gone"


class DamagedRun(LoraError):
    """A run of the list whose record is missing or cannot be read; `folder` is that of the record."""

    def __init__(self, folder: Path) -> None:
        hint = f"`lora runs rm {shell.quote(folder.stem)}` removes that folder; its LoRA and states stay"
        super().__init__(f"the run {folder.stem!r} is damaged: {folder} has no record that can be read", hint=hint)
        self.folder = folder


def find(
    here: Workspace, name: str, *, alive: bool = False, note: Callable[[str], None] | None = None
) -> tuple[Path, Record]:
    """Return the run with that name, folder or LoRA: of several, a running one if `alive` is set, else not a rerun.

    A rerun is also found by the name of its output folder, such as `cats.rerun`.
    If there are several still, the newest is chosen and `note` is told; without `note` this raises LoraError.
    """
    found = run_index.runs(here)
    path = Path(name).absolute()
    matching = [(folder, run) for folder, run in found if name == run.name or path in (folder, Path(run.output))]
    matching = matching or [pair for pair in found if pair[1].rerun_of and name == pair[0].parent.name]
    matching = matching or _found_again(here, path, note)
    if not matching:
        raise _unknown(here, name, dict.fromkeys(run.name for _, run in found))
    if len(matching) > 1:
        going = [pair for pair in matching if alive and record.is_alive(pair[0])]
        matching = going or [pair for pair in matching if pair[1].rerun_of is None] or matching
    if len(matching) > 1 and note is None:
        folders = "\n".join(str(folder) for folder, _ in matching)
        raise LoraError(f"there are {len(matching)} runs {name!r}", hint=f"name one by its folder:\n{folders}")
    if len(matching) > 1 and note:
        note(f"note: of {len(matching)} runs {name!r} this is the newest: {matching[0][0]}")
    return matching[0]


def _found_again(here: Workspace, path: Path, note: Callable[[str], None] | None) -> list[tuple[Path, Record]]:
    """Return the run with that folder or LoRA, which is not in the index; one that was moved is put there."""
    # it may also be of another checkout, or of one whose index is not writable
    places = dict.fromkeys((path, path.with_name(f"{path.stem}.run") if path.name else path))
    found = [(folder, run) for folder in places if (run := record.read(folder))]
    for folder, _ in found:
        before = run_index.moved_from(here, folder)
        if before:
            run_index.add(here, folder)
            if note:
                note(f"note: {before} was moved to {folder}, which `lora runs list` shows from now on")
    return found


def _unknown(here: Workspace, name: str, known: Iterable[str]) -> LoraError:
    path = Path(name).absolute()

    def named(folders: Iterable[Path]) -> list[Path]:
        return [each for each in folders if name == each.stem or (path.parent, path.stem) == (each.parent, each.stem)]

    if damaged := named(run_index.damaged(here)):
        return DamagedRun(damaged[0])
    if gone := named(run_index.gone(here)):
        return LoraError(f"the folder of the run {name!r} is gone: {gone[0]}", hint=GONE)
    job = next((job for job in jobs.read(here.queue) if name in (job.name, job.folder.name, job.output)), None)
    if job:
        hint = f"`lora queue list` shows it, and `lora queue pause {shell.quote(job.folder.name)}` has it not begin"
        return LoraError(f"the run {name!r} has not begun: it is a job of the queue", hint=hint)
    names = list(known)
    hint = nearest.hint(name, names) or f"runs: {', '.join(names) or 'none yet'}"
    return LoraError(f"there is no run {name!r}", hint=hint)


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


def progress(folder: Path, run: Record) -> str:
    """Return the state, whether the miniature trained it, and of a running training its step, time left and loss."""
    history = History(folder)
    if (found := state(folder, run)) == "running":
        history.update()
    what = [found, record.MINIATURE] if run.is_miniature else [found]
    return ", ".join([*what, *(history.figures.reached() if history.figures.known else [])])


def output(folder: Path, run: Record) -> str:
    """Return the path of the LoRA, and whether that of a complete run is gone."""
    return run.output + " (the file is gone)" * (state(folder, run) == "complete" and not has_lora(run))


def summary(folder: Path, run: Record) -> dict[str, Any]:
    """Return the record of a run, for JSON."""
    derived = {"state": state(folder, run), "has_lora": has_lora(run), "miniature": run.is_miniature}
    return {"folder": str(folder), **asdict(run), **derived}


def has_lora(run: Record) -> bool:
    """Return whether the LoRA of the run is there."""
    return os.path.lexists(run.output)


def samples(folder: Path) -> str | None:
    """Return the folder of the run's sample images; None if it has none."""
    return str(folder / record.SAMPLES) if (folder / record.SAMPLES).is_dir() else None


def document(folder: Path, run: Record) -> dict[str, Any]:
    """Return the record of a run and the files beside it, for JSON."""
    # imported here, since the other commands about runs need nothing of it
    from lora_training.app import recording

    return {
        **summary(folder, run),
        "figures": figures(folder).as_json(),
        **{f"{what}s": list(map(str, paths)) for what, paths in saves(run).items()},
        "samples": samples(folder),
        "resolved": recording.config(folder),
        "inputs": recording.read(folder, recording.INPUTS) or None,
        "environment": recording.read(folder, recording.ENVIRONMENT) or None,
    }


def figures(folder: Path) -> Figures:
    """Return the figures of a run, read from its events."""
    history = History(folder)
    history.update()
    return history.figures


def saves(run: Record) -> dict[str, list[Path]]:
    """Return the checkpoints and the states of a run; none for a folder that cannot be read, or an impossible name."""
    output = Path(run.output)
    try:
        return {"checkpoint": backup.checkpoints(output), "state": states.folders(output)}
    except (OSError, ValueError):
        return {"checkpoint": [], "state": []}


def outcome(folder: Path, run: Record) -> Iterator[str]:
    """Yield the outcome of a run: loss, time, checkpoints, and where its samples and logs are."""
    found = figures(folder)
    if found.known:
        yield f"loss      {found.losses()}"
        yield f"time      {found.took()}"
    words = [f"{len(paths)} {what}{'s' * (len(paths) != 1)}" for what, paths in saves(run).items() if paths]
    if words:
        yield f"saves     {', '.join(words)} in {Path(run.output).parent}"
    if drawn := samples(folder):
        yield f"samples   {drawn}"
    if run.tensorboard:
        yield f"logs      {run.tensorboard} (TensorBoard)"


def log(folder: Path, *, follow: bool, sleep: Callable[[float], None] = time.sleep) -> Iterator[tuple[Path, bytes]]:
    """Yield the log of the newest attempt, in whole lines; with `follow`, until the run ends."""
    run = record.read(folder)
    number, offset = max(0, len(run.attempts) - 1) if run else 0, 0
    while True:
        # asked before the log is read, so that nothing is missed
        is_alive = record.is_alive(folder)
        run = record.read(folder)
        found = run.logs if run else []
        while number < len(found):
            is_over = not is_alive or number + 1 < len(found)
            while data := _lines_after(found[number], offset, rest=is_over):
                offset += len(data)
                yield found[number], data
            if number + 1 == len(found):
                break
            number, offset = number + 1, 0
        if not (is_alive and follow):
            return
        sleep(_POLL_S)


def _lines_after(path: Path, offset: int, *, rest: bool) -> bytes:
    """Return the lines after an offset, with `rest` also one without an end; nothing for a file that is not there."""
    try:
        with open(path, "rb", opener=files.opener) as file:
            file.seek(offset)
            data = file.read(_CHUNK)
    except FileNotFoundError:
        return b""
    return data if rest or len(data) == _CHUNK else data[: data.rfind(b"\n") + 1]
