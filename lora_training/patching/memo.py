"""Writes down what a yes rests on, for `lora_training.quick` to give it again while nothing changed."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lora_training import quick
from lora_training.errors import PatchError
from lora_training.patching import exclude, journal, lockfile, plan, probes, series, site, stack
from lora_training.patching.standing import COPY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lora_training.patching.series import Target
    from lora_training.workspace import Workspace

# A clock that stands still between two ticks, as file systems use; -1 where there is none.
_COARSE = 5 if os.uname().sysname == "Linux" else -1
_SECOND_NS = 1_000_000_000


def sign(workspace: Workspace, targets: Sequence[Target], also: Sequence[Path] = ()) -> list[str] | None:
    """The files that an answer rests on, `also` these, each with its signature, a line each.

    To be called before they are read.

    None where a later write might not show: a file that was changed just now (git calls it racy), a file system without
    exact times, a name that a line cannot hold.
    """
    root = os.fspath(workspace.root)
    try:
        stacks = lockfile.read(workspace.patches)
    except PatchError:
        return None
    if not _is_applied(targets, stacks):
        return None
    now = time.clock_gettime_ns(_COARSE) if _COARSE >= 0 else 0
    lines = []
    for path in dict.fromkeys([*_watched(workspace, targets, stacks), *(_relative(root, path) for path in also)]):
        full = os.path.join(root, path)
        if "\n" in path or not _is_settled(full, now):
            return None
        lines.append(f"{quick.signature(full)}\t{path}")
    return lines


def _is_settled(path: str, now: int) -> bool:
    try:
        changed = os.lstat(path.rstrip("/")).st_ctime_ns
    except OSError:
        return True
    return changed < now and changed % _SECOND_NS != 0


def write(workspace: Workspace, signed: Sequence[str], answers: Mapping[str, str]) -> None:
    """Remember `answers` (by command) for as long as every signature is the same. Not being able to is no error."""
    parts = "".join(f"{command}\n{text}\0" for command, text in answers.items())
    memo = "\n\n".join([quick.HEADER, "\n".join(signed), parts])
    path = workspace.root / quick.MEMO
    draft = path.with_name(f"memo.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(memo.encode("utf-8", "surrogateescape"))
        os.replace(draft, path)


def _is_applied(targets: Sequence[Target], stacks: Mapping[str, stack.Stack]) -> bool:
    """Whether it looks like it: there is no point in signing a tree that is about to change."""
    for target in targets:
        stack_ = stacks.get(target.name)
        kept = next((path for path in stack_.paths if stack.is_kept(stack_, path)), None) if stack_ else None
        if kept is not None and not os.path.lexists(f"{target.root}/{kept}{COPY}"):
            return False
    return True


def _watched(workspace: Workspace, targets: Sequence[Target], stacks: Mapping[str, stack.Stack]) -> Iterator[str]:
    root = workspace.root
    yield from (".gitmodules", ".git", "patches", "PATCHES.md", f"patches/{lockfile.LOCK}")
    yield from (_relative(root, path) for path in (_git_files(root) or []))
    state = site.of_workspace(workspace).state
    yield from (_relative(root, journal.path_of(state, phase)) for phase in journal.PHASES)
    for folder in (workspace.patches / "docs", root / "lora_training/runtime/patches", Path(__file__).parent):
        yield _relative(root, folder)
        yield from (_relative(root, path) for path in sorted(folder.glob("*.*")))
    for target in targets:
        yield from (_relative(root, path) for path in _of_target(target, stacks.get(target.name)))
        for parent in _parents(stacks.get(target.name)):
            yield _relative(root, target.root / parent) + "/"


def _of_target(target: Target, stack_: stack.Stack | None) -> Iterator[Path]:
    yield target.root / ".lora-upstream.json"
    yield from _git_files(target.root)
    yield target.patches
    yield target.patches / series.SERIES
    yield from (target.patches / name for name in series.names(target.patches))
    for path in (*(stack_.paths if stack_ else ()), *probes.reads(target.name)):
        yield target.root / path
        yield target.root / (path + COPY)


def _parents(stack_: stack.Stack | None) -> set[str]:
    """A folder above a file that becomes a link would show other files under the same names."""
    return {parent for path in stack_.paths for parent in plan.parents(path)} if stack_ else set()


def _git_files(tree: Path) -> list[Path]:
    """What says which commit a tree is at, and which commits it pins."""
    folder = exclude.git_folder(tree)
    if folder is None:
        return [tree / ".git"]
    found = [tree / ".git", folder / "HEAD", folder / "index", folder / "packed-refs"]
    with contextlib.suppress(OSError):
        head = (folder / "HEAD").read_text(encoding="utf-8").strip()
        if head.startswith("ref:"):
            found.append(folder / head.removeprefix("ref:").strip())
    return found


def _relative(root: Path | str, path: Path) -> str:
    return os.fspath(path).removeprefix(f"{root}/")
