"""Removing runs: their states and records, their LoRAs if asked for, and entries of the list without a folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_training import manifest, shell
from lora_training.app import runs
from lora_training.errors import LoraError
from lora_training.preflight import disk
from lora_training.supervise import backup, record, run_index, states

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lora_training.supervise.record import Record
    from lora_training.workspace import Workspace


@dataclass(frozen=True)
class Removal:
    """The files of a run to remove, in this order, and those that stay under its name, each with the reason."""

    name: str
    folder: Path
    paths: tuple[Path, ...]
    stays: tuple[tuple[Path, str], ...] = ()

    def size(self) -> int:
        """Return the number of bytes that are freed."""
        return sum(map(disk.size, self.paths))

    def as_json(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        stays = [{"path": str(path), "why": why} for path, why in self.stays]
        return {"name": self.name, "folder": str(self.folder), "paths": list(map(str, self.paths)), "stays": stays}


def named(here: Workspace, name: str, *, lora: bool = False, only_states: bool = False) -> Removal:
    """Return what to remove of the run with that name, or of a state that a run was started from.

    Of a run whose record is damaged, that is the record alone, since nothing says what else is its own.
    """
    if kept := kept_state(here, Path(name).absolute()):
        return kept
    try:
        return plan(*runs.find(here, name), lora=lora, only_states=only_states)
    except runs.DamagedRun as exc:
        if lora or only_states:
            raise
        return Removal(exc.folder.stem, exc.folder, (exc.folder,))


def plan(folder: Path, run: Record, *, lora: bool = False, only_states: bool = False) -> Removal:
    """Return what to remove of a run: its states, then its LoRA and checkpoints if `lora` is set, then its record.

    Raises LoraError for a run that is running. A state that another run was started from stays, as does another run's.
    """
    _refuse_running(folder, run)
    # the record in a folder of another name is that of one of several machines, or not of this LoRA
    output = Path(run.output) if Path(run.output).with_suffix(".run") == folder else None
    own, stays = _states(output, run) if output else ([], [])
    written = [path for path in (output, *backup.checkpoints(output)) if path.exists()] if output else []
    if lora:
        own += written
    elif not only_states:
        stays += [(path, "give --lora to remove it, too") for path in written]
    if not only_states and run.tensorboard and Path(run.tensorboard).is_dir():
        stays.append((Path(run.tensorboard), "TensorBoard's logs"))
    return Removal(run.name, folder, (*own, *([] if only_states else [folder])), tuple(stays))


def kept_state(here: Workspace, path: Path) -> Removal | None:
    """Return what to remove of a state that a run was started from; None if `path` is not the folder of one."""
    if not manifest.is_kept(path):
        return None
    for folder, run in run_index.runs(here):
        if run.start and run.start["path"] == str(path):
            _refuse_running(folder, run)
    return Removal(path.name, states.run_folder(path), (path, manifest.mark(path)))


def _refuse_running(folder: Path, run: Record) -> None:
    if record.is_alive(folder):
        raise LoraError(f"{run.name} is running", hint=f"end it first: `lora runs stop {shell.quote(run.name)}`")


def _states(output: Path, run: Record) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Return the states of a run, and those under its name that stay."""
    own, stay = [], []
    for path in states.folders(output):
        if manifest.is_kept(path):
            stay.append((path, f"another run was started from it; `lora runs rm {shell.quote(str(path))}` removes it"))
        elif states.is_anothers(path, run.made_by):
            stay.append((path, "another configuration made it"))
        else:
            own.append(path)
    return own, stay


def remove(here: Workspace, removal: Removal) -> None:
    """Remove the files of a run, and take it off the list if its record is among them."""
    try:
        with record.alone(removal.folder):
            record.refuse_links(removal.paths)
            for path in removal.paths:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        if removal.folder in removal.paths:
            run_index.remove(here, removal.folder)
    except OSError as exc:
        raise _failed(exc) from exc


def finished(here: Workspace) -> list[Removal]:
    """Return the states of all complete runs, which only a longer training would need, and those that stay."""
    complete = ((folder, run) for folder, run in run_index.runs(here) if runs.state(folder, run) == "complete")
    found = (plan(folder, run, only_states=True) for folder, run in complete if not record.is_alive(folder))
    return [each for each in found if each.paths or each.stays]


def forget(here: Workspace, folders: Iterable[Path]) -> None:
    """Take runs off the list whose folders are gone."""
    try:
        for folder in folders:
            run_index.remove(here, folder)
    except OSError as exc:
        raise _failed(exc) from exc


def _failed(exc: OSError) -> LoraError:
    return LoraError(f"cannot remove {exc.filename}: {exc.strerror}", hint="what was removed before is gone; try again")
