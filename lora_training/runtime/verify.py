"""Check that the targets of runtime patches are unchanged since the pin. Reads source files; imports none of them.

The digest of a target covers its syntax tree, so it does not depend on formatting, comments or the Python version.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from lora_training.runtime.model import RuntimePatch, Target
from lora_training.stat_cache import StatCache, is_settled


@dataclass(frozen=True)
class Mismatch:
    """A target that does not match its patch. `file` is None when the module cannot be found."""

    patch: str
    target: Target
    file: Path | None
    what: str

    def __str__(self) -> str:
        return f"runtime patch {self.patch}: {self.target.name} in {self.file or self.target.module} {self.what}"


def targets(patches: Iterable[RuntimePatch], trees: Sequence[Path], cache: Path | None = None) -> list[Mismatch]:
    """Return the targets of `patches` that do not match, for a training that runs a script of `trees`.

    The digests of a file are cached in the folder `cache` for as long as the file does not change.
    """
    pairs = list(dict.fromkeys((patch.name, target) for patch in patches for target in patch.targets))
    wanted: dict[str, list[str]] = {}
    for _, target in pairs:
        wanted.setdefault(target.module, []).append(target.name)
    files = {module: locate(module, *trees) for module in wanted}
    # the cache key covers the targets and how digests are taken
    judge = hashlib.sha256(repr(sorted({astuple(target) for _, target in pairs})).encode()).hexdigest()
    known = StatCache(cache, f"runtime targets {judge}")
    digests = {module: _digests(file, wanted[module], known) for module, file in files.items() if file}
    known.save()
    found = []
    for name, target in pairs:
        digest = digests.get(target.module, {}).get(target.name)
        if digest != target.digest:
            what = "is missing" if digest is None else f"has changed since the pin, to digest {digest}"
            found.append(Mismatch(name, target, files[target.module], what))
    return found


def _digests(file: Path, names: Iterable[str], known: StatCache) -> dict[str, str | None]:
    path = os.fspath(file)
    unknown = known.unknown([path])
    if not unknown:
        remembered: dict[str, str | None] = json.loads(known.word(path))
        return remembered
    parsed = parse(file)
    found = {name: digest_in(parsed, name) for name in dict.fromkeys(names)}
    if is_settled(unknown[path]):
        known.add(path, unknown[path], json.dumps(found))
    return found


def locate(module: str, *trees: Path) -> Path | None:
    """Return the file that `import MODULE` runs in a training that runs a script of `trees`; the first match counts."""
    inner = Path(*module.split("."))
    # scripts in this folder import modules beside them
    beside = [tree / "finetune" for tree in trees]
    for root in (*trees, *beside, *map(Path, filter(None, sys.path))):
        for file in (root / inner / "__init__.py", (root / inner).with_suffix(".py")):
            if file.is_file():
                return file
    return None


def parse(file: Path) -> ast.Module:
    """Return the syntax tree of a source file."""
    with warnings.catch_warnings():
        # warnings about escapes in upstream's strings appear when upstream itself runs
        warnings.simplefilter("ignore")
        return ast.parse(file.read_bytes(), str(file))


def digest_in(tree: ast.Module, name: str) -> str | None:
    """Return a short digest of the syntax tree of `name` in the module `tree`, or None when it does not exist.

    `name` is a function, a class, a variable assigned at the top, or a member of a class as `Class.member`.
    """
    found = find(tree, name)
    return None if found is None else hashlib.sha256(repr(_shape(found)).encode()).hexdigest()[:16]


def find(tree: ast.Module, name: str) -> ast.AST | None:
    """Return the node of `name` in the module `tree`, by a name as `digest_in` takes it."""
    found: ast.AST | None = tree
    for part in name.split("."):
        found = _member(found, part)
    return found


def _member(parent: ast.AST | None, name: str) -> ast.AST | None:
    body = getattr(parent, "body", [])
    return next((node for node in body if name in _names(node)), None)


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _shape(node: Any) -> Any:
    """Return the tree as nested tuples, without empty fields: which of those exist depends on the Python version."""
    if isinstance(node, ast.AST):
        fields = ((name, _shape(value)) for name, value in ast.iter_fields(node) if name != "kind")
        return (type(node).__name__, *(field for field in fields if field[1] not in (None, ())))
    if isinstance(node, list):
        return tuple(_shape(item) for item in node)
    return node
