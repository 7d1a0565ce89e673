"""The results of `lora patch` as lines of text and as JSON documents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lora_training.cli.output import answer, say
from lora_training.patching.names import shown

if TYPE_CHECKING:
    from lora_training.patching.adhoc import AdHocResult
    from lora_training.patching.authoring import Written
    from lora_training.patching.engine import Result
    from lora_training.patching.planning import Moved
    from lora_training.patching.relock import Locked
    from lora_training.patching.remove import Removed
    from lora_training.patching.transaction import Recovered
    from lora_training.patching.verify import Verified

_DONE = {"applied": "patches applied", "reverted": "back to pristine", "unchanged": "nothing to do"}
_VERIFIED = "all patches are in, nothing drifted"
_STEPS = (
    "next, one after the other:",
    "  lora patch lock      # check the patch and its header, and record every step of the series",
    "  lora patch docs      # write PATCHES.md",
    "  lora patch apply     # keep a pristine copy of every file that it touches",
    "  lora patch verify    # check all of it",
)


def _print(document: dict[str, Any], lines: Iterable[str], found: Recovered | None, *, as_json: bool) -> None:
    """Print the result of a command, after a note of an interrupted one that it completed first."""
    if found:
        say(recovered_line(found), err=True)
    answer(document | {"recovered": recovered(found)}, lines, as_json=as_json)


def report(found: Result, *, as_json: bool) -> None:
    """Print the result of apply or revert on the upstreams."""
    rows, lines = [], []
    for tree in found.trees:
        paths = [shown(path) for path in tree.files]
        row = {"name": tree.name, "done": tree.done, "patches": list(tree.patches), "files": paths}
        rows.append(row | {"moved": _moved(tree.moved)})
        files = f", {len(paths)} file{'s' * (len(paths) > 1)} written" if paths else ""
        lines += [f"{tree.name}: {_DONE[tree.done]}{files}", *(f"  {line}" for line in _moved_lines(tree.moved))]
    _print({"upstreams": rows}, lines, found.recovered, as_json=as_json)


def report_ad_hoc(tree: object, done: str, found: AdHocResult, *, as_json: bool) -> None:
    """Print the result of apply or revert on any folder."""
    paths, patches = [shown(path) for path in found.files], list(found.patches)
    state = done if patches else "unchanged"
    document = {"tree": str(tree), "done": state, "patches": patches, "files": paths, "moved": _moved(found.moved)}
    line = f"{done}: {len(patches)} patches, {len(paths)} files" if patches else "nothing to do"
    lines = [line, *(f"  {each}" for each in _moved_lines(found.moved))]
    _print(document, lines, found.recovered, as_json=as_json)


def report_locked(found: Locked, *, as_json: bool) -> None:
    """Print the changes of the lock."""
    done = "patches.lock written" if found.changes else "patches.lock is current"
    document = {"changes": list(found.changes), "moved": _moved(found.moved), "held": list(found.held)}
    held = [
        f"{name}: the tree has its changes already; `lora patch apply` takes them as applied" for name in found.held
    ]
    _print(document, [*found.changes, *_moved_lines(found.moved), done, *held], found.recovered, as_json=as_json)


def report_verified(found: Verified, note: str, *, as_json: bool) -> None:
    """Print the result of verify on the upstreams."""
    from lora_training.patching.verify import lines

    problems = [{"upstream": p.where, "what": p.message, "mend": p.hint or ""} for p in found.problems]
    document = {"ok": not problems, "steps": dict(found.steps), "problems": problems, "unlisted": list(found.unlisted)}
    last = "verification failed" if problems else _VERIFIED
    notes = [f"note: {path} is not in its series, so it is never applied" for path in found.unlisted]
    notes += [f"note: runtime patches {note}"] if note else []
    _print(document, [*lines(found.problems), *notes, last], found.recovered, as_json=as_json)


def report_verified_ad_hoc(problems: list[str], found: Recovered | None, *, as_json: bool) -> None:
    """Print the result of verify on any folder."""
    _print({"ok": not problems, "problems": problems}, problems or [_VERIFIED], found, as_json=as_json)


def report_written(found: Written, *, as_json: bool) -> None:
    """Print the result of new or refresh."""
    lines = [f"{found.path}: {', '.join(found.files) or 'empty'}"]
    lines += [f"to fill in, in its header: {', '.join(found.unfilled)}"] if found.unfilled else []
    lines += _STEPS
    _print({"patch": str(found.path), "files": list(found.files)}, lines, found.recovered, as_json=as_json)


def report_removed(upstream: str, found: Removed, *, as_json: bool) -> None:
    """Print the result of remove."""
    files = [shown(path) for path in found.files]
    kept = found.kept and str(found.kept)
    document = {"upstream": upstream, "removed": found.patch, "kept": kept, "files": files}
    done = f"{upstream}/{found.patch}: removed, files written in the tree: {len(files)}"
    _print(document, [done, *([f"it is kept as {kept}"] if kept else [])], found.recovered, as_json=as_json)


def recovered(found: Recovered | None) -> dict[str, str] | None:
    """Return the recovered command, for JSON."""
    return None if found is None else {"command": found.command, "outcome": found.outcome}


def recovered_line(found: Recovered) -> str:
    """Return the recovered command as a line."""
    return f"note: an interrupted `lora patch {found.command}` was {found.outcome}"


def _moved(hunks: Iterable[Moved]) -> list[dict[str, Any]]:
    """Return the hunks that were found at another line, for JSON."""
    return [{"patch": m.patch, "file": shown(m.path), "line": m.line, "offset": m.offset} for m in hunks]


def _moved_lines(hunks: Iterable[Moved]) -> list[str]:
    """Return the hunks that were found at another line, as text."""
    return [
        f"{m.patch}, line {m.line}: found {m.offset:+d} lines from where it says, in {shown(m.path)}" for m in hunks
    ]
