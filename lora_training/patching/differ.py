"""Two states of some files to a plain git diff, made by git itself in a scratch repository."""

from __future__ import annotations

import tempfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from gitdb import IStream

from lora_training import repositories
from lora_training.patching.names import raw

if TYPE_CHECKING:
    from lora_training.patching.model import Node
    from lora_training.patching.plan import Image
    from lora_training.repositories import Repo

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
_DIFF = ("--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames")


def diff(before: Image, after: Image) -> bytes:
    """The git diff between two states of files; empty when they are the same."""
    with tempfile.TemporaryDirectory() as scratch, repositories.created(Path(scratch), "--template=") as repo:
        trees = [_tree(repo, image) for image in (before, after)]
        settings = [f"{key}={value}" for key, value in _SETTINGS.items()]
        difference: bytes = repo.git(c=settings).diff(*_DIFF, *trees, **repositories.RAW)
        return difference


def _tree(repo: Repo, image: Image) -> str:
    """Store exactly these files; the id of their tree."""
    repo.git.read_tree("--empty")
    with tempfile.TemporaryFile() as rows:
        rows.writelines(_row(repo, path, node) for path, node in image.items() if node and not node.is_folder)
        rows.seek(0)
        repo.git.update_index("-z", "--index-info", istream=rows)
    return str(repo.git.write_tree())


def _row(repo: Repo, path: str, node: Node) -> bytes:
    blob = repo.odb.store(IStream("blob", len(node.data), BytesIO(node.data))).hexsha.decode()
    return raw(f"{node.mode:06o} {blob}\t{path}\0")
