"""The everyday patch commands: `apply`, `revert` and `verify` on the upstreams, without options but `--json`.

They run in every `make train`, so they do without Click: `cli.run` comes here first. The Click commands of the same
names come here too.
"""

from __future__ import annotations

import gc
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from lora_training import workspace
from lora_training.cli import patch_words
from lora_training.cli.targets import targets

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lora_training.patching.series import Target
    from lora_training.workspace import Workspace

_VERBS = ("apply", "revert", "verify")


def takes(argv: Sequence[str]) -> bool:
    """Whether this command line is one of ours."""
    return argv[:1] == ["patch"] and tuple(argv[1:2]) != () and argv[1] in _VERBS and argv[2:] in ([], ["--json"])


def run(argv: Sequence[str]) -> int:
    """Carry out a command line that `takes` says yes to; the exit code."""
    # a second of work at most, and nothing in circles
    gc.disable()
    json_wanted = argv[2:] == ["--json"]
    if argv[1] == "apply":
        return apply(json_wanted=json_wanted)
    return revert(json_wanted=json_wanted) if argv[1] == "revert" else verify(json_wanted=json_wanted)


def apply(upstreams: Sequence[str] = (), *, json_wanted: bool) -> int:
    """Bring every upstream, or those named, to the last step of its series."""
    from lora_training.patching import engine

    here = workspace.find()
    wanted = targets(here, upstreams)
    signed = None if upstreams else _sign(here, wanted)
    result = engine.apply(here, wanted)
    if signed and result.recovered is None and all(tree.done == "unchanged" for tree in result.trees):
        answers = {f"apply{flag}": patch_words.result(result, json_wanted=bool(flag)) for flag in ("", " --json")}
        _remember(here, signed, answers)
    sys.stderr.write(patch_words.recovered_line(result.recovered))
    sys.stdout.write(patch_words.result(result, json_wanted=json_wanted))
    return 0


def revert(upstreams: Sequence[str] = (), *, json_wanted: bool, keep_edits: Path | None = None) -> int:
    """Bring every upstream that is here, or those named, back to pristine."""
    from lora_training.patching import engine

    here = workspace.find()
    wanted = targets(here, upstreams)
    # in a tree that nobody brought there is nothing to take out, and it must not keep the others from it
    there = (
        wanted if upstreams else [target for target in wanted if target.root.is_dir() and any(target.root.iterdir())]
    )
    result = engine.revert(here, there or wanted, keep_edits)
    sys.stderr.write(patch_words.recovered_line(result.recovered))
    sys.stdout.write(patch_words.result(result, json_wanted=json_wanted))
    return 0


def verify(*, json_wanted: bool) -> int:
    """Check everything; 1 when something is not as it should be."""
    from lora_training.cli import runtime_targets
    from lora_training.patching import engine
    from lora_training.patching import verify as checks

    here = workspace.find()
    wanted = targets(here)
    signed = _sign(here, wanted, runtime_targets.files(here))
    found = checks.verify(here, wanted)
    found = replace(found, problems=(*found.problems, *runtime_targets.problems(here)))
    if signed and not found.problems and found.recovered is None:
        idle = engine.idle(here, wanted)
        answers = {f"apply{flag}": patch_words.result(idle, json_wanted=bool(flag)) for flag in ("", " --json")}
        answers |= {f"verify{flag}": patch_words.verified(found, json_wanted=bool(flag)) for flag in ("", " --json")}
        _remember(here, signed, answers)
    sys.stderr.write(patch_words.recovered_line(found.recovered))
    sys.stdout.write(patch_words.verified(found, json_wanted=json_wanted))
    return 1 if found.problems else 0


def _sign(here: Workspace, wanted: list[Target], also: Sequence[Path] = ()) -> list[str] | None:
    from lora_training.patching import memo

    return memo.sign(here, wanted, also)


def _remember(here: Workspace, signed: list[str], answers: dict[str, str]) -> None:
    from lora_training.patching import memo

    memo.write(here, signed, answers)
