"""Compare the command line of two checkouts.

`python -m tests.blackbox OLD NEW [NAME ...]` runs every story (or those whose name contains a NAME) in both and prints
what differs: exit codes, stdout, stderr, files, tensors. Both checkouts need `make setup` before. Differences of
wording that are meant stand in `intended.toml`: regular expressions that are replaced in both before the comparison.
Exit code 1 when anything else differs.
"""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path

import tomllib

from tests.blackbox.running import Story, Told, run, stories

_INTENDED = Path(__file__).with_name("intended.toml")


def main(old: Path, new: Path, names: list[str]) -> int:
    """Compare the stories; return how many differ."""
    intended = [tuple(pair) for pair in tomllib.loads(_INTENDED.read_text(encoding="utf-8"))["replace"]]
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
    _say(f"{lines} command lines in {len(chosen)} stories; {differing} differ")
    return differing


def _compare(story: Story, title: str, before: Told, after: Told, intended: list[tuple[str, str]]) -> bool:
    texts = [_text(told, intended) for told in (before, after)]
    difference = list(difflib.unified_diff(*texts, "old", "new", lineterm="", n=2))
    _say(f"{'DIFFERS' if difference else 'same   '} {title} ({len(story.lines)} lines)")
    for line in difference:
        _say(f"    {line}")
    return bool(difference)


def _text(told: Told, intended: list[tuple[str, str]]) -> list[str]:
    lines = []
    for step in told.steps:
        lines += [f"$ {step['line']}", f"exit {step['code']}"]
        lines += [f"{stream}: {line}" for stream in ("stdout", "stderr") for line in step[stream].splitlines()]
    lines += [f"file: {name}: {described}" for name, described in told.files.items()]
    text = "\n".join(lines)
    for pattern, replacement in intended:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text.splitlines()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(bool(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), sys.argv[3:])))
