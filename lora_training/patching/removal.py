"""When a patch may go: the first line of its `Removal-Condition`, which a machine can check.

`upstream-commit SHA` - the pin contains that commit of the patch's own upstream;
`version >= X` - the patch's upstream has reached that version;
`probe NAME` - the function of ours by that name says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_training.errors import PatchError
from lora_training.patching import probes, tree
from lora_training.patching.probes import PROBES, VERSIONS, Read
from lora_training.patching.standing import COPY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lora_training.patching.series import Target

_COMMIT = re.compile(r"upstream-commit ([0-9a-f]{7,64})")
_VERSION = re.compile(r"version >= (\d+(?:\.\d+)*)")
_PROBE = re.compile(r"probe ([a-z0-9-]+)")


@dataclass(frozen=True)
class Condition:
    """A removal condition, understood."""

    text: str
    is_met: Callable[[Target, Read], bool]


def parse(name: str, field: str) -> Condition:
    """The condition in a header's field. Raises PatchError when it is none that can be carried out."""
    text = field.split("\n", 1)[0].strip()
    for pattern, check in ((_COMMIT, _contains), (_VERSION, _has_reached), (_PROBE, _passes)):
        match = pattern.fullmatch(text)
        if match and (check is not _passes or match[1] in PROBES):
            return Condition(text, _bound(check, match[1]))
    known = ", ".join(sorted(PROBES))
    raise PatchError(
        f"{name}: the removal condition {text!r} cannot be carried out",
        hint=f"write `upstream-commit SHA`, `version >= X` or `probe NAME`; probes: {known}",
    )


def _bound(check: Callable[[Target, Read, str], bool], value: str) -> Callable[[Target, Read], bool]:
    return lambda target, read: check(target, read, value)


def _contains(target: Target, _read: Read, commit: str) -> bool:
    """A shallow tree does not know its history; what it does not know is not said to be contained."""
    if not (target.root / ".git").exists():
        return False
    from lora_training import repositories

    with repositories.opened(target.root) as repo:
        return repo.git.succeeds("merge-base", "--is-ancestor", commit, "HEAD")


def _has_reached(target: Target, read: Read, version: str) -> bool:
    found = version_of(target.name, read)
    return found is not None and _numbers(found) >= _numbers(version)


def _passes(_target: Target, read: Read, probe: str) -> bool:
    return PROBES[probe](read)


def version_of(upstream: str, read: Read) -> str | None:
    """The version that an upstream's own files state, None when they do not."""
    if upstream not in VERSIONS:
        return None
    path, pattern = VERSIONS[upstream]
    match = re.search(pattern, read(upstream, path) or "", re.MULTILINE)
    return match[1] if match else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def pristine_reader(targets: Mapping[str, Target]) -> Read:
    """Reads upstream files as they are without patches: the copy where there is one."""

    def read(upstream: str, path: str) -> str | None:
        target = targets.get(upstream)
        if target is None or path not in probes.reads(upstream):
            return None
        node = tree.read(target.root, path + COPY) or tree.read(target.root, path)
        return None if node is None or node.is_folder else node.data.decode("utf-8", "replace")

    return read
