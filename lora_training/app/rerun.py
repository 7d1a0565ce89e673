"""`lora runs rerun`: repeat a run from its record, and compare the two LoRAs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_training import files, manifest, shell
from lora_training.app import plan as plans
from lora_training.app import recording, train
from lora_training.app.plan import Plan
from lora_training.errors import CheckFailed, ConfigError
from lora_training.patching import transaction
from lora_training.runtime import registry
from lora_training.supervise import digests, environment, states
from lora_training.supervise.record import Record
from lora_training.supervise.run import Watcher
from lora_training.workspace import Workspace


@dataclass(frozen=True)
class Original:
    """The run to repeat: its record and its folder."""

    folder: Path
    run: Record

    def read(self, name: str) -> dict[str, Any]:
        """Return one of the files beside the record."""
        return recording.read(self.folder, name)


@dataclass(frozen=True)
class Compared:
    """A LoRA and the original that it repeats; `farthest` is None where the original file is missing.

    `tensors` is 0 when there is nothing to compare with, since the original run never finished.
    """

    lora: Path
    original: Path
    tensors: int
    differ: tuple[str, ...]
    farthest: float | None

    @property
    def is_same(self) -> bool | None:
        """Whether every tensor has the same bits; None if there is nothing to compare with."""
        return not self.differ if self.tensors else None

    def sentence(self) -> str:
        """Return the result as a sentence for the user."""
        if self.is_same is None:
            return "nothing to compare with: the original never finished"
        if self.is_same:
            return f"same bits: all {self.tensors} tensors of {self.original}"
        far = "" if self.farthest is None else f", by up to {self.farthest:.3g}"
        return f"{len(self.differ)} of {self.tensors} tensors differ from those of {self.original}{far}"


def rerun(
    here: Workspace, original: Original, output: Path | None, watcher: Watcher, *, allow_changes: bool
) -> Compared:
    """Train from the record of `original` into `output` (default: `NAME.rerun` beside its LoRA), and compare.

    Raises ConfigError when the record is incomplete or `output` is the original's folder, CheckFailed when the inputs
    differ from the recorded ones.
    """
    run = original.run
    _require_sense(original)
    wanted = digests.recorded_tensors(original.folder)
    if wanted is None:
        watcher.note(f"{run.name} never finished, so there will be nothing to compare the LoRA with")
    with transaction.shared_lock(here):
        plan = _plan(here, original, output)
        train.make_assets(here, plan, watcher)
        now = recording.surroundings(here, plan)
        for line in environment.differences(original.read(recording.ENVIRONMENT), now):
            watcher.note(f"changed: {line}")
        then, inputs = original.read(recording.INPUTS), recording.inputs(here, plan)
        read = [f"{name}: {line}" for name in ("dataset", "models") for line in recording.changes(then, inputs, name)]
        changed = [*_differences(original, plan, now), *read]
        if changed and not allow_changes:
            hint = "\n".join([*changed, "`--allow-changes` trains with the changed inputs"])
            raise CheckFailed("the inputs of the run have changed since", hint=hint)
        made = train.run(here, plan, _resume(original, plan), watcher, rerun_of=Path(run.output))
    return compare(made.path, Path(run.output), wanted, (run.result or {}).get("sha256"))


def _require_sense(original: Original) -> None:
    run = original.run
    lacks = f"{original.folder} does not say enough to repeat the run: "
    if recording.config(original.folder) is None:
        raise ConfigError(
            f"{lacks}it has no {recording.CONFIG} that can be read",
            hint=f"an older lora wrote it; `lora train {shell.quote(run.config)}` trains it anew",
        )
    if not run.made_by:
        raise ConfigError(
            f"{lacks}no digests of its inputs",
            hint=f"`lora train {_config(original)}` trains it as a configuration",
        )
    if run.start and not Path(run.start["path"]).is_absolute():
        raise ConfigError(f"{lacks}{run.start['path']!r} is relative", hint="a record has absolute paths")


def _config(original: Original) -> str:
    return shell.quote(str(original.folder / recording.CONFIG))


def _plan(here: Workspace, original: Original, output: Path | None) -> Plan:
    lora = Path(original.run.output)
    place = files.expanded(output) if output else lora.with_suffix(".rerun")
    if place.resolve() == lora.parent.resolve():
        raise ConfigError(f"the original is in {place}", hint="give another folder with --output")
    # the record already includes every override
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LORA_")}
    sets = (f"output_dir={place}", *_newer_patches_off(original))
    file = original.folder / recording.CONFIG
    return plans.make(here, file, sets, write=True, environ=environ, known=original.folder)


def _newer_patches_off(original: Original) -> Iterator[str]:
    """Yield overrides that switch off the default patches that did not exist when the run was made."""
    then = original.read(recording.ENVIRONMENT).get("runtime")
    for name, patch in registry.available().items():
        if then and patch.on_by_default and name not in then:
            yield f"runtime.{name}=false"


def _differences(original: Original, plan: Plan, now: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each input of the run that differs; patches are compared by their effect on files."""
    then = original.read(recording.ENVIRONMENT)
    if original.run.made_by.get("patches") == plan.made_by["patches"]:
        then["patches"] = now["patches"]
    for name in ("upstreams", "patches", "runtime"):
        if name in then:
            what = name.removesuffix("es").removesuffix("s")
            yield from (f"{what} {line}" for line in environment.changes(then[name], now[name]))
    for name in sorted({*original.run.made_by, *plan.made_by}):
        before, after = (made_by.get(name, "none") for made_by in (original.run.made_by, plan.made_by))
        # if the record has details, the differing names have already been listed
        if before != after and (name == "config" or name not in then):
            yield f"{name}: {before[:12]} -> {after[:12]}"


def _resume(original: Original, plan: Plan) -> str:
    """Return `auto` to continue an unfinished rerun, else the state that the run began with, or `never`."""
    run = original.run
    if recording.complete(plan) is None and states.newest(plan.output, made_by=plan.made_by):
        return "auto"
    if run.start is None:
        return "never"
    path = Path(run.start["path"])
    if manifest.read(path) is None or manifest.digest(path / manifest.NAME) != run.start["sha256"]:
        raise CheckFailed(
            f"the run started from the state {path}, which has changed since",
            hint="a rerun needs that state: restore it there",
        )
    if states.is_strangers(path, original.folder.parent):
        raise ConfigError(
            f"the run started from the state {path}, which is another user's",
            hint=f"`lora train {_config(original)} --resume {shell.quote(str(path))}` goes on from it all the same",
        )
    return str(path)


def compare(lora: Path, original: Path, wanted: Mapping[str, str] | None, sha256: str | None) -> Compared:
    """Compare a LoRA with the original's recorded tensor digests, and by value if the original still exists."""
    if wanted is None:
        return Compared(lora, original, 0, (), None)
    found = digests.of_tensors(lora)
    names = sorted({*found, *wanted})
    differ = tuple(name for name in names if found.get(name) != wanted.get(name))
    is_there = bool(differ) and original.exists() and digests.whole(original) == sha256
    largest = digests.largest_difference(lora, original) if is_there else None
    return Compared(lora, original, len(names), differ, largest)
