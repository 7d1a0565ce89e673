"""`lora patch verify` and `status`: compare the trees, the lock and PATCHES.md with the patches."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from lora_training.errors import LoraError, PatchError
from lora_training.patching import docs, lockfile, removal, series, transaction, tree_state
from lora_training.patching.model import state_of
from lora_training.patching.names import shown
from lora_training.patching.planning import stack
from lora_training.patching.planning.stack import PRISTINE, Stack
from lora_training.patching.tree_state import COPY, TreeState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lora_training.patching.series import Target
    from lora_training.patching.transaction import Recovered
    from lora_training.workspace import Workspace


@dataclass(frozen=True)
class Problem:
    """A problem and the command that fixes it; `upstream` is empty for one that concerns no single upstream."""

    upstream: str
    what: str
    mend: str


def lines(problems: Iterable[Problem]) -> list[str]:
    """Problems as text: one line each, with a shared fix below those that it applies to."""
    found = []
    for mend, those in itertools.groupby(problems, lambda problem: problem.mend):
        found += [f"{problem.upstream}: {problem.what}".removeprefix(": ") for problem in those]
        found += [f"  {line}" for line in f"mend: {mend}".splitlines()]
    return found


@dataclass(frozen=True)
class Verified:
    """The problems that were found, and the step of the series that each tree is at, None for none."""

    problems: tuple[Problem, ...]
    steps: Mapping[str, int | None]
    recovered: Recovered | None = None


def verify(workspace: Workspace, targets: Sequence[Target]) -> Verified:
    """Check every upstream, the removal conditions and PATCHES.md. Problems are returned, not raised."""
    found = trees(workspace, targets)
    # removal conditions read pristine files, which only a tree without problems is sure to have
    removable = () if found.problems else tuple(_removal_problems(targets))
    about = (*removable, *_document_problems(workspace, targets))
    return replace(found, problems=(*found.problems, *about))


def trees(workspace: Workspace, targets: Sequence[Target]) -> Verified:
    """Check what a training needs: pins, files, the lock. Problems are returned, not raised."""
    with transaction.shared(transaction.root_of(workspace)) as recovered:
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
        stack_ = tree_state.locked(target, stacks)
        contents = series.read_bytes(target.patches)
        state = tree_state.read(target, stack_)
        edited = tree_state.local_edits(state)
    except LoraError as exc:
        return [_as_problem(target.name, exc)]
    steps[target.name] = state.position.common
    lock = tree_state.lock_problems(target, stack_, contents)
    found = [Problem(target.name, what.removeprefix(f"{target.name}: "), "lora patch lock") for what in lock]
    return [*found, *_tree_problems(state, edited)]


def _tree_problems(state: TreeState, edited: Sequence[str]) -> Iterator[Problem]:
    mend = tree_state.edits_hint(state, edited) if edited else ""
    for path, steps in state.position.steps.items():
        yield from _file_problems(state, path, steps, mend)
        if stack.is_kept(state.stack, path):
            yield from _copy_problems(state, path, steps)
    others = tree_state.outside_series(state, edited)
    if others:
        yield Problem(state.target.name, tree_state.edits_sentence(others), mend)


def _file_problems(state: TreeState, path: str, steps: frozenset[int], mend: str) -> Iterator[Problem]:
    name = state.target.name
    if not steps:
        found, wanted = state_of(state.image[path]), state.stack.state(path, state.stack.last)
        yield Problem(name, f"{shown(path)} has drifted: it is {found}, expected {wanted}", mend)
    elif state.stack.last not in steps:
        at = "pristine" if PRISTINE in steps else f"at step {max(steps)} of {state.stack.last}"
        yield Problem(name, f"{shown(path)} is {at}", "lora patch apply")


def _copy_problems(state: TreeState, path: str, steps: frozenset[int]) -> Iterator[Problem]:
    copy = state.image.get(path + COPY)
    if copy is None:
        if steps - {PRISTINE}:
            yield Problem(state.target.name, f"{shown(path + COPY)}, the pristine copy, is missing", "lora patch apply")
    elif state_of(copy) != state.stack.state(path, PRISTINE):
        yield Problem(
            state.target.name,
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


@dataclass(frozen=True)
class Status:
    """The state of one upstream: `step` of `last` patches are applied (None: its files are at different steps).

    `drifted` files are at no step, `patched` files at a step after the pristine one. `edited` are all files with local
    edits; `cure` lists the commands that deal with them.
    """

    name: str
    commit: str | None
    pin: str
    step: int | None
    last: int
    drifted: tuple[str, ...]
    patched: tuple[str, ...] = ()
    problem: str | None = None
    edited: tuple[str, ...] = ()
    cure: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields for JSON."""
        return asdict(self)

    def line(self) -> str:
        """One line of text."""
        if self.problem:
            return f"{self.name}: {self.problem}"
        at = "at its pin" if self.commit == self.pin else f"NOT at its pin {self.pin[:12]}"
        step = "files at different steps" if self.step is None else f"{self.step} of {self.last} patches in"
        edits = tree_state.edits_line(self.edited, self.cure)
        return f"{self.name}: {(self.commit or 'unknown')[:12]}, {at}, {step}{edits}"


def status(workspace: Workspace, targets: Sequence[Target]) -> list[Status]:
    """Return the state of every upstream. Raises PatchError when the lock cannot be read."""
    with transaction.shared(transaction.root_of(workspace)):
        stacks = lockfile.read(workspace.patches)
        return [_status(target, stacks) for target in targets]


def _status(target: Target, stacks: dict[str, Stack]) -> Status:
    try:
        stack_ = tree_state.locked(target, stacks)
        state = tree_state.read(target, stack_)
    except PatchError as exc:
        return Status(target.name, target.commit, target.pin, None, 0, (), problem=exc.message)
    position = state.position
    patched = tuple(path for path, steps in position.steps.items() if steps and PRISTINE not in steps)
    edited = tree_state.local_edits(state)
    cure = tree_state.edits_hint(state, edited) if edited else None
    at = (target.commit, target.pin, position.common, stack_.last)
    return Status(target.name, *at, position.drifted, patched, edited=edited, cure=cure)
