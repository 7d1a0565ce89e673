"""`lora patch verify`: everything that could be wrong, each with the command that mends it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lora_training.errors import LoraError, PatchError
from lora_training.patching import docs, edits, lockfile, removal, series, site, stack, standing
from lora_training.patching.model import state_of
from lora_training.patching.names import shown
from lora_training.patching.stack import PRISTINE, Stack
from lora_training.patching.standing import COPY, Standing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lora_training.patching.series import Target
    from lora_training.patching.transaction import Recovered
    from lora_training.workspace import Workspace


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be, and what to do about it. `upstream` is empty when it is about none."""

    upstream: str
    what: str
    mend: str


def lines(problems: Iterable[Problem]) -> list[str]:
    """Problems for people: a line each, and below those that have it in common what to do."""
    found = []
    for mend, those in itertools.groupby(problems, lambda problem: problem.mend):
        found += [f"{problem.upstream}: {problem.what}".removeprefix(": ") for problem in those]
        found += [f"  {line}" for line in f"mend: {mend}".splitlines()]
    return found


@dataclass(frozen=True)
class Verified:
    """The answer is yes when there are no problems. `steps`: the step that each tree is at, None for none."""

    problems: tuple[Problem, ...]
    steps: Mapping[str, int | None]
    recovered: Recovered | None = None


def verify(workspace: Workspace, targets: Sequence[Target]) -> Verified:
    """Check every upstream, and what is written about our patches. What is wrong is reported and not raised."""
    found = trees(workspace, targets)
    # a probe reads pristine files, which only a tree without a problem is sure to have
    removable = () if found.problems else tuple(_removal_problems(targets))
    about = (*removable, *_document_problems(workspace, targets))
    return replace(found, problems=(*found.problems, *about))


def trees(workspace: Workspace, targets: Sequence[Target]) -> Verified:
    """Check what a training rests on: pins, files, the lock. What is wrong is reported and not raised."""
    with site.together(site.of_workspace(workspace)) as recovered:
        problems: list[Problem] = []
        steps: dict[str, int | None] = {}
        try:
            stacks = lockfile.read(workspace.patches)
        except PatchError as exc:
            return Verified((_as_problem("", exc),), steps, recovered)
        for target in targets:
            problems += _target_problems(target, stacks, steps)
    return Verified(tuple(problems), steps, recovered)


def _target_problems(target: Target, stacks: Mapping[str, Stack], steps: dict[str, int | None]) -> list[Problem]:
    steps[target.name] = None
    try:
        series.check_at_pin(target)
        stack_ = standing.locked(target, stacks)
        contents = series.read_bytes(target.patches)
        item = standing.stand(target, stack_)
        edited = edits.find(item)
    except LoraError as exc:
        return [_as_problem(target.name, exc)]
    steps[target.name] = item.position.common
    lock = standing.lock_problems(target, stack_, contents)
    found = [Problem(target.name, what.removeprefix(f"{target.name}: "), "lora patch lock") for what in lock]
    return [*found, *_tree_problems(item, edited)]


def _tree_problems(item: Standing, edited: Sequence[str]) -> Iterator[Problem]:
    mend = edits.cure(item, edited) if edited else ""
    for path, steps in item.position.steps.items():
        yield from _file_problems(item, path, steps, mend)
        if stack.is_kept(item.stack, path):
            yield from _copy_problems(item, path, steps)
    others = edits.outside(item, edited)
    if others:
        yield Problem(item.target.name, edits.sentence(others), mend)


def _file_problems(item: Standing, path: str, steps: frozenset[int], mend: str) -> Iterator[Problem]:
    name = item.target.name
    if not steps:
        found, wanted = state_of(item.image[path]), item.stack.state(path, item.stack.last)
        yield Problem(name, f"{shown(path)} has drifted: it is {found}, expected {wanted}", mend)
    elif item.stack.last not in steps:
        at = "pristine" if PRISTINE in steps else f"at step {max(steps)} of {item.stack.last}"
        yield Problem(name, f"{shown(path)} is {at}", "lora patch apply")


def _copy_problems(item: Standing, path: str, steps: frozenset[int]) -> Iterator[Problem]:
    copy = item.image.get(path + COPY)
    if copy is None:
        if steps - {PRISTINE}:
            yield Problem(item.target.name, f"{shown(path + COPY)}, the pristine copy, is missing", "lora patch apply")
    elif state_of(copy) != item.stack.state(path, PRISTINE):
        yield Problem(
            item.target.name,
            f"{shown(path + COPY)} is not the pristine file",
            f"move {shown(path + COPY)} away, then lora patch apply",
        )


def _removal_problems(targets: Sequence[Target]) -> Iterator[Problem]:
    read = removal.pristine_reader({target.name: target for target in targets})
    for target in targets:
        try:
            headers = series.headers(target.patches)
            conditions = [(item.name, removal.parse(item.name, item.fields["Removal-Condition"])) for item in headers]
        except PatchError as exc:
            yield _as_problem(target.name, exc)
            continue
        for name, condition in conditions:
            if condition.is_met(target, read):
                mend = f"take {name} out of the series, then lora patch lock"
                yield Problem(target.name, f"{name} is no longer needed: {condition.text} holds", mend)


def _document_problems(workspace: Workspace, targets: Sequence[Target]) -> Iterator[Problem]:
    try:
        if not docs.is_current(workspace, targets):
            yield Problem("", f"{docs.DOCUMENT} is out of date", "lora patch docs")
    except PatchError as exc:
        yield _as_problem("", exc)


def _as_problem(name: str, exc: LoraError) -> Problem:
    return Problem(name, exc.message, exc.hint or "")
