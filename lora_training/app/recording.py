"""Writing the files of a run's folder before it starts, and reading those of an earlier run."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_training import files, manifest
from lora_training.errors import ConfigError, TrainingError
from lora_training.launch import gpus
from lora_training.runtime import registry, training
from lora_training.supervise import backup, digests, environment, record, run_index, states
from lora_training.supervise import result as results
from lora_training.supervise.record import Record
from lora_training.supervise.result import Result
from lora_training.supervise.states import State
from lora_training.upstream import pins
from lora_training.workspace import Workspace

# commands that only read records need none of these
if TYPE_CHECKING:
    from lora_training.app.plan import Plan
    from lora_training.config.files import Inputs
    from lora_training.supervise.run import Watcher

CONFIG, INPUTS, ENVIRONMENT, ORIGINS = "config.toml", "inputs.json", "environment.json", "origins.json"
_SHOWN = 3
# in bytes
_LARGEST = 16 * 2**20
# the keys of both files that are read by name
_TABLES = ("files", "upstreams", "patches", "runtime", "packages")


def complete(plan: Plan) -> Result | None:
    """Return the LoRA if this run has already finished. One without metadata is identified by its record."""
    known = _recorded(plan, own_record(plan))
    if known is None and not results.is_made_by(plan.output, plan.made_by):
        return None
    try:
        return results.check(plan.output, before=None, told=(known["steps"], known["steps"]) if known else None)
    except TrainingError:
        return None


def begin(here: Workspace, plan: Plan, resume: str, state: State | None, watcher: Watcher) -> dict[str, Any]:
    """Write the files that describe the run, and rename the files of another run with its name.

    Return the initial fields of the record. A state named by `resume` is protected from removal from now on.
    """
    if plan.started.machine_rank:
        # machine 0 protects and renames the shared files
        _write(here, plan, watcher, goes_on=False)
        return {}
    if state and resume != "auto":
        manifest.keep(state.path)
    _require_guard(plan)
    earlier = None if resume == "never" else _continued(plan, state)
    if renames_earlier(plan, resume, state):
        kept = plan.output.with_name(f"{backup.free_name(plan.output)}{plan.output.suffix}")
        moved = plan.output.rename(kept) if earlier else _rename_all(plan, state)
        if moved:
            run_index.add(here, moved.with_suffix(plan.folder.suffix))
            watcher.note(f"the files of an earlier run with this name are kept as {moved.with_suffix('')}")
    if not (earlier and _is_from_record(plan)):
        files.write(plan.folder / ORIGINS, json.dumps(_origins(plan), indent=1) + "\n")
    _write(here, plan, watcher, goes_on=bool(earlier and state))
    if plan.tensorboard:
        plan.tensorboard.mkdir(parents=True, exist_ok=True)
    return {
        "attempts": earlier.attempts if earlier else [],
        "start": _start(plan, state, earlier),
        "began_in": earlier and earlier.began_in,
        "tensorboard": plan.tensorboard and str(plan.tensorboard),
    }


def _require_guard(plan: Plan) -> None:
    """Refuse a run that could overwrite a kept state; only runtime patches that watch a training prevent that."""
    kept = next(filter(manifest.is_kept, states.folders(plan.output)), None)
    known = registry.available()
    if kept and not any(training.TARGETS[0] in known[name].targets for name in plan.runtime):
        raise ConfigError(
            f"{kept} is the state that a run started from, and this run could overwrite it",
            hint="choose another output_name, or leave exact-resume on",
        )


def refuse_own_work(plan: Plan) -> None:
    """Raise ConfigError when this run reads a file that it would rename or overwrite."""
    read_first = _reads(plan).models
    both = [path for path in (plan.output, *backup.checkpoints(plan.output)) if path in read_first]
    if both:
        raise ConfigError(f"{both[0]} is read by this run, which has its name", hint="choose another output_name")


def _reads(plan: Plan) -> Inputs:
    from lora_training.config.files import inputs as read_inputs

    return read_inputs(plan.config, plan.schema)


def renames_earlier(plan: Plan, resume: str, state: State | None) -> bool:
    """Return whether files under this run's name are renamed: another run's, or all of them for a new start."""
    if resume == "never" or any(not manifest.is_kept(path) for path in others(plan, state)):
        return True
    if record.read(plan.folder) is None:
        return state is None and backup.has_record(plan.folder)
    return _continued(plan, state) is None


def others(plan: Plan, state: State | None) -> list[Path]:
    """Return the LoRA, checkpoints and states of other runs under this run's name, except `state`."""
    if own := own_record(plan):
        return [plan.output] if plan.output.exists() and _is_anothers(plan, own) else []
    earlier = record.read(plan.folder)
    found = [plan.output] if plan.output.exists() and (earlier or _is_anothers(plan, None)) else []
    # without a record, a checkpoint is this run's if its metadata match
    left = [path for path in backup.checkpoints(plan.output) if earlier or not results.is_made_by(path, plan.made_by)]
    theirs = (path for path in states.folders(plan.output) if states.is_anothers(path, plan.made_by))
    begins = state and state.path.resolve()
    return [*found, *left, *(path for path in theirs if path.resolve() != begins)]


def maker(plan: Plan) -> dict[str, str]:
    """Return the digests of the run that made the files of `others`, as far as they contain them."""
    known = record.read(plan.folder)
    if known and known.made_by != dict(plan.made_by):
        return known.made_by
    for path in (plan.output, *backup.checkpoints(plan.output)):
        metadata = results.metadata_of(path)
        named = {name: metadata[f"lora_{name}"] for name in plan.made_by if f"lora_{name}" in metadata}
        if named and named != dict(plan.made_by):
            return named
    another = next((each for each in states.good(plan.output) if each.differences(plan.made_by)), None)
    return dict(another.made_by) if another else {}


def _continued(plan: Plan, state: State | None) -> Record | None:
    """Return the record of the run that a start from `state` continues: same inputs, and the same initial state."""
    own = own_record(plan)
    if own is None or state is None or not state.differences(plan.made_by):
        return own
    return own if own.start is not None and own.start["path"] == str(state.path) else None


def _rename_all(plan: Plan, state: State | None) -> Path | None:
    """Rename all files under the run's name, except its own states when it resumes from one of them."""
    keeps: list[Path] = []
    if state is not None and not state.differences(plan.made_by):
        complete_ones = filter(manifest.read, states.folders(plan.output))
        keeps = [path for path in complete_ones if not states.is_anothers(path, plan.made_by)]
    return backup.rename(plan.output, plan.folder, keeps=keeps, logs=plan.tensorboard)


def _is_anothers(plan: Plan, own: Record | None) -> bool:
    """Return whether the existing LoRA is another run's; `own` is this run's record, if it was started before."""
    if results.is_made_by(plan.output, plan.made_by):
        return False
    # a file without metadata, such as a truncated one, is this run's if the run was writing it or wrote it
    metadata = results.metadata_of(plan.output)
    says_other = any(f"lora_{name}" in metadata for name in plan.made_by)
    return own is None or says_other or (own.result is not None and _recorded(plan, own) is None)


def _recorded(plan: Plan, own: Record | None) -> dict[str, Any] | None:
    """Return the result in this run's record if it is that of the existing LoRA, else None."""
    if own is None or not own.result or not plan.output.exists():
        return None
    return own.result if own.result.get("sha256") == digests.whole(plan.output) else None


def own_record(plan: Plan) -> Record | None:
    """Return the record of this run, if it was started before; of several machines, that of number 0."""
    earlier = record.read(plan.output.with_suffix(".run"))
    return earlier if earlier and earlier.made_by == dict(plan.made_by) else None


def _start(plan: Plan, state: State | None, earlier: Record | None) -> dict[str, Any] | None:
    """Return the state of another run that this one began with, now or when `earlier` was written."""
    if state is None:
        return None
    if not state.differences(plan.made_by):
        return earlier.start if earlier else None
    return {"path": str(state.path), "step": state.step, "sha256": manifest.digest(state.path / manifest.NAME)}


def _write(here: Workspace, plan: Plan, watcher: Watcher, *, goes_on: bool) -> None:
    files.write(plan.folder / CONFIG, resolved(plan))
    reads = inputs(here, plan)
    before = read(plan.folder, INPUTS) if goes_on else {}
    changed = changes(before, reads, "dataset") if before else []
    if changed:
        watcher.note(f"the data set has changed since this run began: {'; '.join(changed)}")
    _keep(plan.folder / INPUTS, reads, goes_on=goes_on)
    _keep(plan.folder / ENVIRONMENT, surroundings(here, plan), goes_on=goes_on)


def source(plan: Plan) -> Path:
    """Return the file that the user wrote: of a run that continues from its own record, the one that this names."""
    known = record.read(plan.folder) if _is_from_record(plan) else None
    return Path(known.config) if known else plan.config.path


def _is_from_record(plan: Plan) -> bool:
    return plan.config.path == plan.folder / CONFIG


def _origins(plan: Plan) -> dict[str, str]:
    """Return the origin of each of upstream's flags, and of each overridden key of other tables."""
    tables = {".".join(map(str, path)): where for path, where in plan.config.origins.items()}
    return tables | {key: entry.origin for key, entry in plan.config.entries.items()}


def _keep(path: Path, document: dict[str, Any], *, goes_on: bool) -> None:
    """Write a document; keep an older one that differs under a numbered name."""
    if goes_on and path.exists() and read(path.parent, path.name) != json.loads(json.dumps(document)):
        names = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in itertools.count(1))
        path.rename(next(name for name in names if not name.exists()))
    files.write(path, json.dumps(document, indent=1) + "\n")


def config(folder: Path) -> str | None:
    """Return the text of the resolved configuration beside a record; None if it is missing or unreadable."""
    try:
        return files.read(folder / CONFIG, _LARGEST).decode("utf-8", "surrogateescape")
    except OSError:
        return None


def read(folder: Path, name: str) -> dict[str, Any]:
    """Return a file beside a record; empty if it is missing, as in an older run, or invalid."""
    from lora_training.config import document

    found = files.read_json(folder / name)
    is_sound = (
        document.oddity(found) is None
        and all(isinstance(found.get(name, {}), dict) for name in _TABLES)
        and all(isinstance(each, dict) for each in found.get("files", {}).values())
    )
    return found if is_sound else {}


def resolved(plan: Plan, *, keeps_auto: bool = False) -> str:
    """Return the resolved configuration as a TOML file for `lora train`, with the same meaning on any machine.

    With `keeps_auto`, a number of processes that is `auto` stays so, for a machine with another number of GPUs.
    """
    from lora_training.config import show

    script = plan.config.script
    # patches that are on by default and off in this run must stay off
    off = {name: False for name, patch in registry.available().items() if patch.is_default(script)}
    switches = off | {name: dict(settings) or True for name, settings in plan.runtime.items()}
    chosen = dict(plan.config.runtime) if plan.tree.is_miniature else switches
    return show.resolved(plan.config, plan.schema, processes=None if keeps_auto else plan.started.count, runtime=chosen)


def inputs(here: Workspace, plan: Plan) -> dict[str, Any]:
    """Return digests of every file that the training reads, and one each of the data set and the models."""
    found = _reads(plan)
    read_files = {
        "dataset": digests.of(found.dataset, here.cache / "digests"),
        "models": digests.of(found.models, here.cache / "digests"),
    }
    return {name: _together(each) for name, each in read_files.items()} | {"files": read_files}


def _together(found: dict[str, str]) -> str:
    """Return one digest of many files, which does not change when all of them are moved together."""
    root = os.path.commonpath([os.path.dirname(path) for path in found]) if found else ""  # noqa: PTH120 - the paths are kept as text
    return digests.together({os.path.relpath(path, root): digest for path, digest in found.items()})


def changes(then: dict[str, Any], now: dict[str, Any], name: str) -> list[str]:
    """Return the differences in the data set or the models: a few files by name."""
    if not then or then.get(name) == now.get(name):
        return []
    before, after = (each.get("files", {}).get(name, {}) for each in (then, now))
    words = {
        "is gone": [path for path in before if path not in after],
        "is new": [path for path in after if path not in before],
        "was changed": [path for path in after if path in before and before[path] != after[path]],
    }
    lines = [f"{path} {how}" for how, paths in words.items() for path in paths[:_SHOWN]]
    left = sum(map(len, words.values())) - len(lines)
    return [*lines, *([f"and {left} more"] if left else [])]


def surroundings(here: Workspace, plan: Plan) -> dict[str, Any]:
    """Return upstreams, patches, packages and the machine."""
    cards = gpus.described()
    return {
        "upstreams": {name: pins.head(upstream).commit for name, upstream in here.upstreams.items()},
        "patches": plan.tree.patches,
        "runtime": {name: dict(settings) for name, settings in plan.runtime.items()},
        **environment.read(),
        "gpus": [{key: value for key, value in asdict(card).items() if key != "driver"} for card in cards],
        "driver": cards[0].driver if cards else None,
    }
