"""Two states of some files to a plain git diff, made by git itself in a scratch repository."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lora_training import git
from lora_training.patching.names import raw

if TYPE_CHECKING:
    from lora_training.patching.model import Node
    from lora_training.patching.plan import Image

# Whatever the user's own git is set to, the same files give the same diff.
_SETTINGS = {
    "core.autocrlf": "false",
    "core.safecrlf": "false",
    "core.fileMode": "true",
    "core.symlinks": "true",
    "core.quotePath": "true",
    "core.attributesFile": "/dev/null",
    "core.excludesFile": "/dev/null",
    "diff.noprefix": "false",
    "diff.mnemonicPrefix": "false",
    "diff.algorithm": "myers",
    "diff.context": "3",
}
# No renames: quilt and older patches take a deletion and a creation, and say what they do.
_DIFF = ("diff", "--cached", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames")


def diff(before: Image, after: Image) -> bytes:
    """The git diff between two states of files; empty when they are the same."""
    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch)
        _git(repository, "init", "--quiet", "--template=")
        base = _tree(repository, before)
        _tree(repository, after)
        return raw(_git(repository, *_DIFF, base))


def _tree(repository: Path, image: Image) -> str:
    """Have the index hold exactly these files; the id of its tree."""
    _git(repository, "read-tree", "--empty")
    rows = [_row(repository, path, node) for path, node in image.items() if node is not None and not node.is_folder]
    _git(repository, "update-index", "-z", "--index-info", stdin="".join(rows))
    return _git(repository, "write-tree").strip()


def _row(repository: Path, path: str, node: Node) -> str:
    blob = _git(repository, "hash-object", "-w", "--stdin", "--no-filters", stdin=node.data).strip()
    return f"{node.mode:06o} {blob}\t{path}\0"


def _git(repository: Path, *args: str, stdin: str | bytes | None = None) -> str:
    settings = [word for key, value in _SETTINGS.items() for word in ("-c", f"{key}={value}")]
    data = raw(stdin) if isinstance(stdin, str) else stdin
    return git.git(*settings, *args, cwd=repository, stdin=data)
