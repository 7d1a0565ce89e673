"""Replace the repository of a tree by a list of its pristine files' digests, so that git is not needed any more.

The build of the container image runs `python -m lora_training.upstream.seal`: it fetches missing trees and seals all.
The image then needs neither git nor its libraries, which are larger than all our code.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Collection

from lora_training import repositories, workspace
from lora_training.errors import LoraError, UpstreamError
from lora_training.upstream import pins, sync
from lora_training.workspace import Upstream, Workspace


def seal(here: Workspace, name: str) -> bool:
    """Put the marker of a sealed tree in place of upstream `name`'s repository; return whether there was one.

    Applied patches stay. Raises UpstreamError when the tree is not at its pin, or has changes that no patch contains.
    """
    upstream, head, pin = here.upstream(name), pins.head(here.upstream(name)), pins.pin(here, name)
    if head.commit != pin:
        raise UpstreamError(f"{name} is at {head.commit}, not at its pin {pin}", hint="`lora upstream sync` brings it")
    changed = pins.changes(upstream, head)
    edits = sorted(set(changed) - pins.patched_paths(here, name))
    if edits:
        raise UpstreamError(
            f"{name} has changes that no patch contains: {', '.join(edits[:5])}",
            hint="an image is made of what is pinned; `lora upstream sync --discard-edits` throws them away",
        )
    if head.origin != "git":
        return False
    marker = {"commit": pin, "origin": "sealed", "archive": upstream.url, "files": _pristine(upstream, changed)}
    (upstream.path / pins.MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
    dot_git = upstream.path / ".git"
    if dot_git.is_dir():
        shutil.rmtree(dot_git)
    else:
        dot_git.unlink()
    return True


def _pristine(upstream: Upstream, changed: Collection[str]) -> dict[str, str]:
    """Return the sha256 of each file that is checked out, as the commit has it."""
    found = {}
    with repositories.opened(upstream.path) as repo:
        commit = repo.head.commit
        for entry in repo.git.ls_files("-t", "-z").split("\0"):
            # S: left out of a sparse checkout
            if entry and not entry.startswith("S "):
                path = entry[2:]
                pristine = commit.tree.join(path).data_stream.read() if path in changed else None
                data = (upstream.path / path).read_bytes() if pristine is None else pristine
                found[path] = hashlib.sha256(data).hexdigest()
    return found


def main() -> int:
    """Bring and seal every upstream of the checkout; the exit code."""
    here = workspace.find()
    try:
        if (here.root / ".git").exists():
            raise UpstreamError(f"{here.root} is a checkout, where trees keep their repositories")
        for name in here.upstreams:
            upstream = here.upstream(name)
            # a submodule's `.git` is a file that points into our repository, which is not in the image
            if (upstream.path / ".git").is_file() and pins.head(upstream).commit is None:
                shutil.rmtree(upstream.path)
            sync.sync(here, name, _say)
            _say(f"{name}: {'sealed' if seal(here, name) else 'has no repository, as it is'}, {pins.pin(here, name)}")
    except LoraError as exc:
        _say(f"error: {exc.message}" + (f"\nhint: {exc.hint}" if exc.hint else ""))
        return exc.exit_code
    return 0


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
