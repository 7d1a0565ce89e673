"""The results of `lora patch` as text and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lora_training import printable
from lora_training.patching.names import shown
from lora_training.patching.verify import lines

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lora_training.patching.engine import Result, TreeResult
    from lora_training.patching.planning import Moved
    from lora_training.patching.transaction import Recovered
    from lora_training.patching.verify import Verified

_DONE = {"applied": "patches applied", "reverted": "back to pristine", "unchanged": "nothing to do"}


def as_json(document: Any) -> str:
    """Return a JSON document as text."""
    return printable.as_json(document) + "\n"


def result(found: Result, *, json_wanted: bool) -> str:
    """Return the result of apply or revert, as lines or as JSON."""
    if json_wanted:
        return as_json({"upstreams": [_tree(row) for row in found.trees], "recovered": recovered(found.recovered)})
    return "".join(f"{printable.line(line)}\n" for row in found.trees for line in _tree_lines(row))


def _tree(row: TreeResult) -> dict[str, Any]:
    files = [shown(path) for path in row.files]
    return {"name": row.name, "done": row.done, "patches": list(row.patches), "files": files, "moved": moved(row.moved)}


def _tree_lines(row: TreeResult) -> list[str]:
    files = f", {len(row.files)} files written" if row.files else ""
    return [f"{row.name}: {_DONE[row.done]}{files}", *(f"  {line}" for line in moved_lines(row.moved))]


def moved(hunks: Iterable[Moved]) -> list[dict[str, Any]]:
    """Return the hunks that were found at another line, for JSON."""
    return [{"patch": m.patch, "file": shown(m.path), "line": m.line, "offset": m.offset} for m in hunks]


def moved_lines(hunks: Iterable[Moved]) -> list[str]:
    """Return the hunks that were found at another line, as text."""
    return [
        f"{m.patch}, line {m.line}: found {m.offset:+d} lines from where it says, in {shown(m.path)}" for m in hunks
    ]


def recovered(found: Recovered | None) -> dict[str, str] | None:
    """Return the recovered command, for JSON."""
    return None if found is None else {"command": found.command, "outcome": found.outcome}


def recovered_line(found: Recovered | None) -> str:
    """Return the recovered command as a line; empty if there is none."""
    return f"note: an interrupted `lora patch {found.command}` was {found.outcome}\n" if found else ""


def verified(found: Verified, *, json_wanted: bool) -> str:
    """Return the result of verify, as lines or as JSON."""
    if json_wanted:
        problems = [{"upstream": p.upstream, "what": p.what, "mend": p.mend} for p in found.problems]
        document = {"ok": not problems, "steps": dict(found.steps), "problems": problems}
        return as_json(document | {"recovered": recovered(found.recovered)})
    told = "".join(f"{printable.line(line)}\n" for line in lines(found.problems))
    return told + ("verification failed\n" if told else "all patches are in, nothing drifted\n")
