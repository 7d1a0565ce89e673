"""`lora patch verify` and `status`: compare the trees, the lock and PATCHES.md with the patches."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lora_training.errors import LoraError, PatchError
from lora_training.patching import conditions, docs, lockfile, series, transaction, tree_state
from lora_training.patching.lockfile import PRISTINE, Stack
from lora_training.patching.model import state_of
from lora_training.patching.names import shown
from lora_training.patching.series import Target
from lora_training.patching.transaction import Recovered
from lora_training.patching.tree_state import COPY, TreeState
from lora_training.problems import Problem
from lora_training.workspace import Workspace


def lines(problems: Iterable[Problem]) -> list[str]:
    """Return problems as text: one line each, with a shared fix below those that it applies to."""
    found = []
    for hint, those in itertools.groupby(problems, lambda problem: problem.hint):
        found += [f"{problem.where}: {problem.message}".removeprefix(": ") for problem in those]
        found += [f"  {line}" for line in f"mend: {hint or ''}".splitlines()]
    return found


@dataclass(frozen=True)
class Verified:
    """The problems that were found, and the step of the series that each tree is at, None for none.

    `unlisted` has the patch files that are in no series, as `UPSTREAM/NAME`.
    """

    problems: tuple[Problem, ...]
    steps: Mapping[str, int | None]
    recovered: Recovered | None = None
    unlisted: tuple[str, ...] = ()


def verify(workspace: Workspace, targets: Sequence[Target]) -> Verified:
    """Check every upstream, the removal conditions and PATCHES.md. Problems are returned, not raised."""
    found = trees(workspace, targets)
    # removal conditions read pristine files, which only a tree without problems is sure to have
    problems = [*found.problems, *(() if found.problems else _removal_problems(targets))]
    try:
        if not docs.is_current(workspace, targets):
            problems.append(Problem(f"{docs.DOCUMENT} is out of date", "lora patch docs"))
    except PatchError as exc:
        problems.append(Problem(exc.message, exc.hint))
    return replace(found, problems=tuple(problems), unlisted=tuple(_unlisted(targets)))


def _unlisted(targets: Iterable[Target]) -> Iterator[str]:
    for target in targets:
        # a series that cannot be read is a problem of its own
        with contextlib.suppress(PatchError):
            listed = series.names(target.patches)
            paths = sorted(target.patches.glob("*.patch"))
            yield from (f"{target.name}/{path.name}" for path in paths if path.name not in listed)


def trees(workspace: Workspace, targets: Sequence[Target]) -> Verified:
    """Check pins, files and the lock, before a training. Problems are returned, not raised."""
    with transaction.shared(transaction.root_of(workspace)) as recovered:
        problems: list[Problem] = []
        steps: dict[str, int | None] = {}
        try:
            stacks = lockfile.read(workspace.patches)
        except PatchError as exc:
            return Verified((Problem(exc.message, exc.hint),), steps, recovered)
        for target in targets:
            problems += _target_problems(target, stacks, steps)
    return Verified(tuple(problems), steps, recovered)


def _target_problems(target: Target, stacks: Mapping[str, Stack], steps: dict[str, int | None]) -> list[Problem]:
    steps[target.name] = None
    try:
        series.check_at_pin(target)
        state = tree_state.read(target, tree_state.locked(target, stacks))
        contents = series.read_bytes(target.patches)
        edited = tree_state.local_edits(state)
    except LoraError as exc:
        return [Problem(exc.message, exc.hint, where=target.name)]
    steps[target.name] = state.common
    lock = tree_state.lock_problems(target, state.stack, contents)
    found = [Problem(what, "lora patch lock", where=target.name) for what in lock]
    return [*found, *_tree_problems(state, edited)]


def _tree_problems(state: TreeState, edited: Sequence[str]) -> Iterator[Problem]:
    mend = tree_state.edits_hint(state, edited) if edited else ""
    for path, steps in state.steps.items():
        yield from _file_problems(state, path, steps, mend)
        if state.stack.is_kept(path):
            yield from _copy_problems(state, path, steps)
    others = tree_state.outside_series(state, edited)
    if others:
        yield Problem(tree_state.edits_sentence(others), mend, where=state.target.name)


def _file_problems(state: TreeState, path: str, steps: frozenset[int], mend: str) -> Iterator[Problem]:
    name = state.target.name
    if not steps:
        found, wanted = state_of(state.image[path]), state.stack.state(path, state.stack.last)
        yield Problem(f"{shown(path)} has drifted: it is {found}, expected {wanted}", mend, where=name)
    elif state.stack.last not in steps:
        at = "pristine" if PRISTINE in steps else f"at step {max(steps)} of {state.stack.last}"
        yield Problem(f"{shown(path)} is {at}", "lora patch apply", where=name)


def _copy_problems(state: TreeState, path: str, steps: frozenset[int]) -> Iterator[Problem]:
    copy, name = state.image.get(path + COPY), shown(path + COPY)
    if copy is None:
        if steps - {PRISTINE}:
            yield Problem(f"{name}, the pristine copy, is missing", "lora patch apply", where=state.target.name)
    elif state_of(copy) != state.stack.state(path, PRISTINE):
        mend = f"move {name} away, then lora patch apply"
        yield Problem(f"{name} is not the pristine file", mend, where=state.target.name)


def _removal_problems(targets: Sequence[Target]) -> Iterator[Problem]:
    read = conditions.pristine_reader({target.name: target for target in targets})
    for target in targets:
        try:
            headers = series.headers(target.patches)
            parsed = [(name, conditions.parse(name, fields["Removal-Condition"])) for name, fields in headers.items()]
        except PatchError as exc:
            yield Problem(exc.message, exc.hint, where=target.name)
            continue
        for name, condition in parsed:
            if condition.is_met(target, read):
                mend = f"lora patch remove {target.name}/{name}"
                yield Problem(f"{name} is no longer needed: {condition.text} holds", mend, where=target.name)


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

    def line(self) -> str:
        """One line of text."""
        if self.problem:
            return f"{self.name}: {self.problem}"
        if self.commit is None:
            return f"{self.name}: no known commit is there; `lora upstream sync` brings its pin {self.pin[:12]}"
        at = "at its pin" if self.commit == self.pin else f"NOT at its pin {self.pin[:12]}"
        step = "files at different steps" if self.step is None else f"{self.step} of {self.last} patches in"
        edits = tree_state.edits_line(self.edited, self.cure)
        return f"{self.name}: {self.commit[:12]}, {at}, {step}{edits}"


def status(workspace: Workspace, targets: Sequence[Target]) -> list[Status]:
    """Return the state of every upstream. Raises PatchError when the lock cannot be read."""
    with transaction.shared(transaction.root_of(workspace)):
        stacks = lockfile.read(workspace.patches)
        return [_status(target, stacks) for target in targets]


def _status(target: Target, stacks: dict[str, Stack]) -> Status:
    try:
        state = tree_state.read(target, tree_state.locked(target, stacks))
    except PatchError as exc:
        return Status(target.name, target.commit, target.pin, None, 0, (), problem=exc.message)
    patched = tuple(path for path, steps in state.steps.items() if steps and PRISTINE not in steps)
    edited = tree_state.local_edits(state)
    cure = tree_state.edits_hint(state, edited) if edited else None
    at = (target.commit, target.pin, state.common, state.stack.last)
    return Status(target.name, *at, state.drifted, patched, edited=edited, cure=cure)
