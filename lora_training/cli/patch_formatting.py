"""The results of `lora patch` as lines of text and as JSON documents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lora_training.cli.output import print_json, say
from lora_training.patching.names import shown

if TYPE_CHECKING:
    from lora_training.patching.adhoc import AdHocResult
    from lora_training.patching.engine import Result
    from lora_training.patching.planning import Moved
    from lora_training.patching.relock import Locked
    from lora_training.patching.remove import Removed
    from lora_training.patching.transaction import Recovered
    from lora_training.patching.verify import Verified

_DONE = {"applied": "patches applied", "reverted": "back to pristine", "unchanged": "nothing to do"}
_VERIFIED = "all patches are in, nothing drifted"


def report(found: Result, *, as_json: bool) -> None:
    """Print the result of apply or revert on the upstreams."""
    _note_recovered(found.recovered)
    rows = [
        {"name": row.name, "done": row.done, "patches": list(row.patches), "files": [shown(path) for path in row.files]}
        | {"moved": _moved(row.moved)}
        for row in found.trees
    ]
    if as_json:
        print_json({"upstreams": rows, "recovered": recovered(found.recovered)})
        return
    for row in found.trees:
        files = f", {len(row.files)} file{'s' * (len(row.files) > 1)} written" if row.files else ""
        say(f"{row.name}: {_DONE[row.done]}{files}", *(f"  {line}" for line in _moved_lines(row.moved)))


def report_ad_hoc(tree: object, done: str, found: AdHocResult, *, as_json: bool) -> None:
    """Print the result of apply or revert on any folder."""
    _note_recovered(found.recovered)
    if as_json:
        files = [shown(path) for path in found.files]
        done = done if found.changed else "unchanged"
        document = {"tree": str(tree), "done": done, "patches": list(found.patches), "files": files}
        print_json(document | {"moved": _moved(found.moved), "recovered": recovered(found.recovered)})
        return
    say(f"{done}: {len(found.patches)} patches, {len(found.files)} files" if found.changed else "nothing to do")
    say(*(f"  {line}" for line in _moved_lines(found.moved)))


def report_locked(found: Locked, *, as_json: bool) -> None:
    """Print the changes of the lock."""
    _note_recovered(found.recovered)
    if as_json:
        document = {"changes": list(found.changes), "moved": _moved(found.moved)}
        print_json(document | {"recovered": recovered(found.recovered)})
        return
    say(*found.changes, *_moved_lines(found.moved))
    say("patches.lock written" if found.changes else "patches.lock is current")


def report_verified(found: Verified, *, as_json: bool) -> None:
    """Print the result of verify on the upstreams."""
    from lora_training.patching.verify import lines

    _note_recovered(found.recovered)
    if as_json:
        problems = [{"upstream": p.where, "what": p.message, "mend": p.hint or ""} for p in found.problems]
        document = {"ok": not problems, "steps": dict(found.steps), "problems": problems}
        print_json(document | {"recovered": recovered(found.recovered)})
        return
    say(*lines(found.problems), "verification failed" if found.problems else _VERIFIED)


def report_verified_ad_hoc(problems: list[str], found: Recovered | None, *, as_json: bool) -> None:
    """Print the result of verify on any folder."""
    _note_recovered(found)
    if as_json:
        print_json({"ok": not problems, "problems": problems, "recovered": recovered(found)})
    else:
        say(*problems or (_VERIFIED,))


def report_removed(upstream: str, found: Removed, *, as_json: bool) -> None:
    """Print the result of remove."""
    _note_recovered(found.recovered)
    files = [shown(path) for path in found.files]
    if as_json:
        document = {"upstream": upstream, "removed": found.patch, "kept": str(found.kept), "files": files}
        print_json(document | {"recovered": recovered(found.recovered)})
        return
    say(f"{upstream}/{found.patch}: removed, files written in the tree: {len(files)}", f"it is kept as {found.kept}")


def recovered(found: Recovered | None) -> dict[str, str] | None:
    """Return the recovered command, for JSON."""
    return None if found is None else {"command": found.command, "outcome": found.outcome}


def recovered_line(found: Recovered) -> str:
    """Return the recovered command as a line."""
    return f"note: an interrupted `lora patch {found.command}` was {found.outcome}"


def _note_recovered(found: Recovered | None) -> None:
    if found:
        say(recovered_line(found), err=True)


def _moved(hunks: Iterable[Moved]) -> list[dict[str, Any]]:
    """Return the hunks that were found at another line, for JSON."""
    return [{"patch": m.patch, "file": shown(m.path), "line": m.line, "offset": m.offset} for m in hunks]


def _moved_lines(hunks: Iterable[Moved]) -> list[str]:
    """Return the hunks that were found at another line, as text."""
    return [
        f"{m.patch}, line {m.line}: found {m.offset:+d} lines from where it says, in {shown(m.path)}" for m in hunks
    ]
