"""The folder of a run: its record, events and lock. One process at a time works in it.

The supervisor's own lines in `events.jsonl`, between those of the training process (`runtime.events`):

| event | fields |
| --- | --- |
| attempt | `number` (from 1), `from_step`, `log`: a training process is started |
| restart | `from_step`, `death` (the failure's kind), `why`: the attempt failed, and another one follows |
| note | `text`: a message that was printed to the terminal |
| closed | `state` (complete, failed or stopped), `why`: the run is over, or stopped to be resumed |

Each line starts with `event` and `time` (Unix time in seconds).
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any, TypeAlias

from lora_training import files, locks, shell
from lora_training.errors import ConfigError

EVENTS = "events.jsonl"
SAMPLES = "samples"
STOP = "stop"
LOCK = "lock"
RECORD = "run.json"
COMMAND = "command.sh"  # as a line for a shell
BACKGROUND = "background.log"  # the output of a detached `lora train`
# in place of upstream's commit, in the record of a run of the miniature; and its name for people
NO_UPSTREAM, MINIATURE = "none", "the miniature (NOT sd-scripts)"
_Kinds: TypeAlias = "Mapping[str, type | tuple[type, ...]]"
_WHOLE: _Kinds = {
    **dict.fromkeys(("name", "config", "output", "command", "state"), str),
    **dict.fromkeys(("why", "rerun_of", "tensorboard", "began_in"), (str, type(None))),
    "made_by": dict,
    "pid": int,
    "started": (int, float),
}
_ATTEMPT: _Kinds = {"log": str, "from_step": int}
_RESULT: _Kinds = {"steps": int}
_START: _Kinds = {"path": str, "step": int, "sha256": str}
# latest timestamp accepted, about the year 5000: later ones have no calendar date
_LATEST = 1e11
# in bytes; small, since `lora runs list` reads every record
_LARGEST = 4 * 2**20
_TRIES, _PAUSE_S = 5, 0.05


@dataclass
class Record:
    """The contents of `run.json`. Times are Unix times in seconds; `state` is running, complete, failed or stopped.

    `attempts` are those of all invocations, resumed ones included. `start` is the state of another run that this one
    began with, `rerun_of` the LoRA that it repeats, `tensorboard` the folder of its logs in upstream's `logging_dir`.
    `began_in` is the folder of the LoRA at the first start, whose paths are those of `made_by`. Larger data is in files
    beside it.
    """

    name: str
    config: str
    output: str
    command: str
    made_by: dict[str, str]
    state: str = "running"
    pid: int = 0
    started: float = field(default_factory=time.time)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] | None = None
    why: str | None = None
    start: dict[str, Any] | None = None
    rerun_of: str | None = None
    tensorboard: str | None = None
    began_in: str | None = None

    @property
    def logs(self) -> list[Path]:
        """The logs of the attempts, in order."""
        return [Path(attempt["log"]) for attempt in self.attempts]

    @property
    def is_miniature(self) -> bool:
        """Whether the miniature trained it, not sd-scripts."""
        return self.made_by.get("upstream") == NO_UPSTREAM

    def save(self, folder: Path) -> None:
        """Write the record atomically."""
        files.write(folder / RECORD, json.dumps(asdict(self), indent=1) + "\n")


def read(folder: Path) -> Record | None:
    """Return the record in `folder`, or None if it is missing or unreadable. Invalid attempts are left out.

    The paths of the LoRA and the logs are those beside and in `folder`, which may have been moved since.
    """
    run = _read(folder)
    if run is None:
        return None
    run.began_in = run.began_in or str(Path(run.output).parent)
    run.output = str(folder.with_name(Path(run.output).name))
    for attempt in run.attempts:
        attempt["log"] = str(folder / Path(attempt["log"]).name)
    return run


def place(folder: Path) -> Path | None:
    """Return the path of `folder` by its record, which is another one if it was moved; None without a record."""
    run = _read(folder)
    # no file system has a name with half of a character
    is_possible = run and not re.search("[\ud800-\udc7f\udd00-\udfff]", run.output)
    return Path(run.output).with_name(folder.name) if run and is_possible else None


def _read(folder: Path) -> Record | None:
    found, known = files.read_json(folder / RECORD, _LARGEST), {each.name for each in fields(Record)}
    try:
        run = Record(**{name: value for name, value in found.items() if name in known})
        run.attempts = [each for each in run.attempts if _is_flat(each, _ATTEMPT)]
        return run if _is_sound(run) else None
    except (ValueError, TypeError, RecursionError):
        return None


def _is_sound(run: Record) -> bool:
    """Return whether all values have the right types: the file may have been edited or be another program's."""
    return (
        _has(asdict(run), _WHOLE)
        and Path(run.output).name not in ("", os.pardir)
        and "\0" not in run.output
        and 0 <= run.started < _LATEST
        and all(isinstance(digest, str) for digest in run.made_by.values())
        and (run.result is None or _is_flat(run.result, _RESULT))
        and (run.start is None or _is_flat(run.start, _START))
    )


def _has(found: Any, wanted: _Kinds) -> bool:
    return isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in wanted.items())


def _is_flat(found: Any, wanted: _Kinds) -> bool:
    """Return whether `found` has the wanted keys and no nested values, which could have any depth."""
    return _has(found, wanted) and not any(isinstance(value, dict | list) for value in found.values())


def append_event(path: Path, kind: str, **fields: Any) -> None:
    """Append one event, in one write at the end of the file as the training process does. A full disk is no error."""
    line = json.dumps({"event": kind, "time": time.time(), **fields}, default=str).encode() + b"\n"
    with suppress(OSError), open(path, "ab+", buffering=0, opener=files.opener) as file:
        # the training process may have been killed while it wrote a line
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of the run's folder. A folder in which nothing was written is removed again.

    Raises ConfigError when another process holds it, and when the folder is not writable or contains links.
    """
    missing = [each for each in folder.parents if not each.exists()]
    with _locked(folder):
        (folder / STOP).unlink(missing_ok=True)
        refuse_links(folder.rglob("*"))
        try:
            yield
        finally:
            with suppress(OSError):
                if list(folder.iterdir()) == [folder / LOCK]:
                    (folder / LOCK).unlink()
                    for each in (folder, *missing):
                        each.rmdir()


def _locked(folder: Path) -> IO[str]:
    """Return the open lock file. A process that only asks whether it is locked holds the lock for a moment, too."""
    for _ in range(_TRIES):
        handle = _lock_file(folder)
        with suppress(FileNotFoundError):
            # a refused start may have removed it since it was opened
            if locks.acquire(handle.fileno()) and os.path.samestat(os.fstat(handle.fileno()), (folder / LOCK).stat()):
                return handle
        handle.close()
        time.sleep(_PAUSE_S)
    raise ConfigError(
        f"another run is at work on {folder.with_suffix('')}",
        hint=f"wait for it, end it with `lora runs stop {shell.quote(folder.stem)}`, or choose another output_name",
    )


def _lock_file(folder: Path) -> IO[str]:
    refuse_links([folder, folder / LOCK])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # append, so that an unrelated file of that name is not emptied
        return open(folder / LOCK, "a", opener=files.opener)
    except OSError as exc:
        if files.is_disk_full(exc):
            raise
        if isinstance(exc, (FileExistsError, IsADirectoryError)):
            message, hint = f"{exc.filename} is in the way", "take it away, or choose another output_name"
        else:
            message = f"cannot write to {folder.parent}: {exc.strerror}"
            hint = "choose another output_dir, or change its permissions"
        raise ConfigError(message, hint=hint) from exc


def refuse_links(paths: Iterable[Path]) -> None:
    """Raise ConfigError when one of `paths` is a symbolic link, or exists and is neither a file nor a folder."""
    for path in paths:
        if path.is_symlink() or (path.exists() and not (path.is_file() or path.is_dir())):
            what = "a symbolic link" if path.is_symlink() else "no regular file"
            raise ConfigError(
                f"{path} is {what}, and nothing is written through it",
                hint="take it away if you did not put it there, or choose another output_name",
            )


def is_alive(folder: Path) -> bool:
    """Return whether some process holds the lock of the run's folder. Changes nothing in it."""
    try:
        with open(folder / LOCK, opener=files.opener) as handle:
            return not locks.acquire(handle.fileno(), shared=True)
    except FileNotFoundError:
        return False
    except OSError:
        return True
