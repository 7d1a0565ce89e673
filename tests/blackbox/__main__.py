"""Compare the command line of two checkouts.

`python -m tests.blackbox OLD NEW [NAME ...]` runs every story (or those whose name contains a NAME) in both and prints
what differs: exit codes, stdout, stderr, files, tensors. Both checkouts need `make setup` before. `intended.toml` lists
the differences that are meant. Exit code 1 when anything else differs.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tomllib

from tests.blackbox.running import Story, Told, run, stories

_INTENDED = Path(__file__).with_name("intended.toml")


@dataclass(frozen=True)
class Intended:
    """Differences that are meant.

    `replace` has pairs of a regular expression and its replacement, for both sides. `differences` has regular
    expressions for a story, for a command in it (or `files`) and for a line of their difference, and the reason.
    """

    replace: list[tuple[str, str]]
    differences: list[tuple[str, str, str, str]]

    def lines(self, title: str, command: str) -> re.Pattern[str]:
        """Return what matches each line that may differ in a command of a story."""
        found = [
            line
            for story, each, line, _why in self.differences
            if re.search(story, title) and re.fullmatch(each, command, re.DOTALL)
        ]
        return re.compile("|".join(found or ["(?!)"]))


def main(old: Path, new: Path, names: list[str]) -> int:
    """Compare the stories; return how many differ."""
    intended = Intended(**tomllib.loads(_INTENDED.read_text(encoding="utf-8")))
    chosen = [story for story in stories() if not names or any(name in story.name for name in names)]
    lines = differing = 0
    for story in chosen:
        before = run(story, [old] * len(story.lines))
        after = run(story, [new] * len(story.lines))
        differing += _compare(story, story.name, before, after, intended)
        lines += len(story.lines)
        if story.handover is not None:
            mixed = [old if number < story.handover else new for number in range(len(story.lines))]
            differing += _compare(story, f"{story.name}, handed over", before, run(story, mixed), intended)
    found = f"{differing} unintended differences" if differing else "no unintended difference"
    _say(f"{lines} command lines in {len(chosen)} stories; {found}")
    return differing


def _compare(story: Story, title: str, before: Told, after: Told, intended: Intended) -> bool:
    shown: list[str] = []
    for (command, old), (_, new) in zip(_sections(before, intended), _sections(after, intended), strict=True):
        difference = list(difflib.unified_diff(old, new, lineterm="", n=0))[2:]
        meant = intended.lines(title, command)
        if any(not meant.fullmatch(line) for line in difference if not line.startswith("@@")):
            shown += [f"$ {command}", *difference]
    _say(f"{'DIFFERS' if shown else 'same   '} {title} ({len(story.lines)} lines)")
    for line in shown:
        _say(f"    {line}")
    return bool(shown)


def _sections(told: Told, intended: Intended) -> Iterator[tuple[str, list[str]]]:
    """Yield each command with its exit code and output, and at last the files."""
    for step in told.steps:
        lines = [f"{stream}: {line}" for stream in ("stdout", "stderr") for line in _sorted(step[stream]).splitlines()]
        yield step["line"], _replaced([f"exit {step['code']}", *lines], intended)
    yield "files", _replaced([f"{name}: {described}" for name, described in told.files.items()], intended)


def _sorted(text: str) -> str:
    """Return a JSON document with its keys in order; the order has no meaning. Return any other text unchanged."""
    try:
        return json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False)
    except ValueError:
        return text


def _replaced(lines: list[str], intended: Intended) -> list[str]:
    text = "\n".join(lines)
    for pattern, replacement in intended.replace:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text.splitlines()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(bool(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), sys.argv[3:])))
