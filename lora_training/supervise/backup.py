"""Renaming the files of an earlier run, so that a new one can take its name: `cats` becomes `cats.1`."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from lora_training import files, manifest
from lora_training.supervise import record, states


def rename(output: Path, folder: Path, *, keeps: Iterable[Path] = (), logs: Path | None = None) -> Path | None:
    """Rename the files of the LoRA `output` and its record in `folder`; return the record's new folder, None if none.

    These are the LoRA, checkpoints, states and record. `logs` is the folder in upstream's `logging_dir` that is renamed
    as well, if the record names it. `keeps` are the states to leave where they are, for a run that resumes from one of
    them; a state that a run was started from by name always stays. Use it inside `record.alone(folder)`, which keeps
    holding the folder: its contents move, the folder itself stays.
    """
    kept = {path.resolve() for path in keeps}
    moving = [path for path in _of(output) if path.resolve() not in kept and not manifest.is_kept(path)]
    if not moving and not has_record(folder):
        return None
    name = free_name(output)
    for path in moving:
        path.rename(path.with_name(name + path.name.removeprefix(output.stem)))
    backup = folder.with_name(f"{name}{folder.suffix}")
    _move_record(folder, backup, output.with_name(f"{name}{output.suffix}"), logs)
    return backup


def has_record(folder: Path) -> bool:
    """Return whether `folder` holds the record of a run, readable or not."""
    return any((folder / name).exists() for name in (record.RECORD, record.EVENTS))


def refuse_links(output: Path) -> None:
    """Raise ConfigError when a LoRA that the run may overwrite is a link: upstream would write through it."""
    record.refuse_links([output, *checkpoints(output)])


def checkpoints(output: Path) -> list[Path]:
    """The intermediate checkpoints of `output`."""
    return [path for path in _of(output) if path.suffix == output.suffix and path != output]


def _of(output: Path) -> list[Path]:
    """The files under upstream's names: NAME, NAME-000002, NAME-step00000010, with -state too; averages with -ema."""
    return manifest.outputs(output, rf"(?:(?:-ema)?{re.escape(output.suffix)}|{states.KIND})")


def free_name(output: Path) -> str:
    """Return the first free name for the renamed files of `output`."""
    names = (f"{output.stem}.{number}" for number in itertools.count(1))
    taken = {path.name for path in output.parent.iterdir()}
    return next(name for name in names if not any(each.startswith((f"{name}.", f"{name}-")) for each in taken))


def _move_record(folder: Path, backup: Path, output: Path, logs: Path | None) -> None:
    moving = [path for path in sorted(folder.iterdir()) if path.name not in (record.LOCK, record.STOP)]
    if not moving:
        return
    backup.mkdir()
    for path in moving:
        path.rename(backup / path.name)
    (backup / record.LOCK).touch()
    _rename_in_events(backup / record.EVENTS, folder, backup)
    run = record.read(backup)
    if run is not None:
        run.name, run.output = output.stem, str(output)
        if run.result:
            run.result["path"] = str(output)
        if logs and run.tensorboard and Path(run.tensorboard).name == logs.name and logs.is_dir():
            # an empty folder is that of a run which never began; the next one takes it
            is_used = any(logs.iterdir())
            run.tensorboard = str(logs.rename(free_logs(logs.parent, output.stem))) if is_used else None
        run.save(backup)


def _rename_in_events(events: Path, folder: Path, backup: Path) -> None:
    """Replace the old paths of logs and samples by the new ones."""
    with contextlib.suppress(OSError):
        before, after = (json.dumps(f"{path}/")[:-1] for path in (folder, backup))
        files.write(events, files.read(events).decode("utf-8", "surrogateescape").replace(before, after))


def free_logs(place: Path, name: str) -> Path:
    """Return the first free folder in `place` for the logs of the run `name`: `name`, `name-2` and so on."""
    names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    return next(place / each for each in names if not os.path.lexists(place / each))
