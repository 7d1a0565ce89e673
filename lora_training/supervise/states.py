"""The valid saved states of a run, newest first."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lora_training import manifest
from lora_training.errors import ConfigError, TrainingError
from lora_training.manifest import Manifest
from lora_training.supervise import result

# Upstream's names are NAME-step00000010-state, NAME-000002-state and NAME-state. A second one beside a kept state is
# NAME-state.2; one that is being written or replaced ends in .partial or .old.
KIND = r"-state(?:\.\d+)?(?:\.partial|\.old)?"
_STATE = re.compile(manifest.PLACE + KIND + "$")


@dataclass(frozen=True)
class State:
    """A complete saved state: its folder, the optimizer steps done, digests of its inputs by name."""

    path: Path
    step: int
    made_by: Mapping[str, str]

    def differences(self, made_by: Mapping[str, str]) -> tuple[str, ...]:
        """Return the names of the digests that differ between this state and `made_by`."""
        names = sorted({*self.made_by, *made_by})
        return tuple(name for name in names if self.made_by.get(name) != made_by.get(name))


def newest(
    output: Path, passed_over: Callable[[Path, str], None] | None = None, made_by: Mapping[str, str] | None = None
) -> State | None:
    """Return the newest state of the run that writes the LoRA `output`, by steps; None when there is none.

    A state that is incomplete, damaged, holds values that are not finite or does not match `made_by`, if given, is
    passed over and reported.
    """
    return next(good(output, passed_over, made_by), None)


def good(
    output: Path, passed_over: Callable[[Path, str], None] | None = None, made_by: Mapping[str, str] | None = None
) -> Iterator[State]:
    """Yield the states that `newest` chooses from, by steps in descending order."""
    report = passed_over or (lambda _path, _why: None)
    found = [(folder, manifest.read(folder)) for folder in folders(output)]
    for folder, described in found:
        if described is None and not folder.name.endswith((".partial", ".old")):
            report(folder, "it was never finished, or was saved by something else")
    whole = [(folder, described) for folder, described in found if described is not None]
    for folder, described in sorted(whole, key=lambda pair: pair[1].step, reverse=True):
        state = State(folder, described.step, described.made_by)
        if made_by is not None and state.differences(made_by):
            report(folder, "another run made it")
        elif wrong := _damage(folder, described):
            report(folder, wrong)
        else:
            yield state


def is_strangers(folder: Path, around: Path) -> bool:
    """Return whether the state in `folder` belongs to neither this user, root, nor the owner of the folder `around`.

    The owner of `around` can change everything in it anyway; on a network drive, this user's files may have that owner.
    """
    return folder.stat().st_uid not in (os.geteuid(), 0, around.stat().st_uid)


def is_anothers(folder: Path, made_by: Mapping[str, str]) -> bool:
    """Return whether the state in `folder` has a manifest that differs from `made_by`."""
    described = manifest.read(folder)
    return described is not None and dict(described.made_by) != dict(made_by)


def flags(state: State | None) -> tuple[str, ...]:
    """Return upstream's flags to resume from a state; none for a run from the beginning."""
    return ("--resume", str(state.path), "--skip_until_initial_step") if state else ()


def clear_passing(output: Path, *, before: int | None = None) -> None:
    """Remove the temporary states, which only a resume needs: of all steps or of those below `before`.

    A state that some run was started from, by name, stays.
    """
    for folder in folders(output):
        described = manifest.read(folder)
        is_due = before is None or (described is not None and described.step < before)
        if is_due and manifest.is_passing(folder) and not manifest.is_kept(folder):
            shutil.rmtree(folder, ignore_errors=True)


def run_folder(state: Path) -> Path:
    """Return the folder of the run that a state is named after."""
    return state.with_name(_STATE.sub("", state.name) + ".run")


def at(folder: Path) -> State:
    """Return the state in `folder`. Raises ConfigError when there is none, and TrainingError when it is damaged."""
    described = manifest.read(folder)
    if described is None:
        what = "is not a complete saved state" if os.path.lexists(folder) else "does not exist"
        raise ConfigError(f"{folder} {what}", hint="give --resume the folder of a saved state, or a run's name")
    if wrong := _damage(folder, described):
        raise TrainingError(f"{folder} cannot be trusted: {wrong}", hint="name another with --resume")
    return State(folder, described.step, described.made_by)


def folders(output: Path) -> list[Path]:
    """The folders under the names of states of `output`, complete or not."""
    return [path for path in manifest.outputs(output, KIND) if path.is_dir()]


def _damage(folder: Path, described: Manifest) -> str | None:
    """Return why a complete state must not be used: it was changed, or its values are not finite."""
    if wrong := manifest.damage(folder, described):
        return wrong
    try:
        weights = folder / "model.safetensors"
        result.check_finite(weights, result.tensors_of(weights))
    except TrainingError as exc:
        return exc.message
    return None
