"""How a flag changed between the locally available versions of upstream."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lora_training.config import schema as schemas
from lora_training.config.schema import Flag
from lora_training.errors import LoraError

_LOCAL = {"GIT_NO_LAZY_FETCH": "1"}  # do not fetch objects that a partial clone left out
_COMPARED = ("type", "default", "choices", "nargs", "action", "help")


@dataclass(frozen=True)
class Change:
    """A change to a flag of `script` in `version`: added, removed, or changed (field name -> old and new value)."""

    version: str
    script: str
    what: str
    fields: dict[str, tuple[Any, Any]]


def versions(tree: Path) -> tuple[str, ...]:
    """Return the version tags whose sources are available locally, oldest first; empty without a git repository."""
    if not (tree / ".git").exists():
        return ()
    from lora_training import proc, repositories

    try:
        with repositories.opened(tree) as repo:
            listed = repo.git.tag("--list", "v*", "--sort=creatordate", "--merged", "HEAD")
            with repo.git.custom_environment(**_LOCAL):
                is_local = partial(repo.git.succeeds, "cat-file", "-e")
                return tuple(tag for tag in listed.split() if is_local(f"{tag}:train_network.py"))
    except proc.ProcError:
        return ()


def changes(tree: Path, key: str, *, cache: Path | None = None) -> tuple[Change, ...]:
    """Return the changes of the flag `key` from version to version, up to the tree as it is now."""
    found: list[Change] = []
    before: dict[str, Flag] | None = None
    for version in (*versions(tree), None):
        after = _flags(tree, version, key, cache)
        if after is None:
            continue
        if before is not None:
            found += _between(before, after, version or "the pinned tree")
        before = after
    return tuple(found)


def _between(before: dict[str, Flag], after: dict[str, Flag], version: str) -> Iterator[Change]:
    for script in sorted({*before, *after}):
        old, new = before.get(script), after.get(script)
        if old is None or new is None:
            yield Change(version, script, "added" if old is None else "removed", {})
            continue
        was, now = asdict(old), asdict(new)
        fields = {name: (was[name], now[name]) for name in _COMPARED if was[name] != now[name]}
        if fields:
            yield Change(version, script, "changed", fields)


def _flags(tree: Path, version: str | None, key: str, cache: Path | None) -> dict[str, Flag] | None:
    """Return the flag by script at a version (None: the tree itself); None if that version cannot be read."""
    try:
        with nullcontext(tree) if version is None else _checked_out(tree, version) as folder:
            known = schemas.read_all(folder, cache=cache)
    except (LoraError, OSError, tarfile.TarError):
        return None
    return {script: flag for script, schema in known.items() if (flag := schema.flag(key))}


@contextmanager
def _checked_out(tree: Path, version: str) -> Iterator[Path]:
    """Check out the Python files that scripts may import, at one version, into a temporary folder."""
    paths = (":(glob)*.py", ":(glob)library/**/*.py")
    from lora_training import repositories

    with repositories.opened(tree) as repo:
        data = repo.git.archive("--format=tar", version, "--", *paths, env=_LOCAL, **repositories.RAW)
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            target = Path(folder, member.name)
            file = archive.extractfile(member) if member.isfile() and ".." not in target.parts else None
            if file is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read())
        yield Path(folder)
