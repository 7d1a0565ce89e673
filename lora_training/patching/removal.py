"""Check whether a patch is still needed: the first line of its `Removal-Condition`.

`upstream-commit SHA` - the pinned commit contains that commit;
`version >= X` - the upstream has at least that version;
`probe NAME` - the function in `PROBES` by that name returns True.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_training import git_process, proc
from lora_training.errors import PatchError
from lora_training.patching.transaction import tree
from lora_training.patching.tree_state import COPY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lora_training.patching.series import Target

# A pristine file of an upstream as text: read(upstream, path), None when it is not there.
Read = Callable[[str, str], "str | None"]

_BLIP = "finetune/blip/med.py"
_TRAIN_NETWORK = "train_network.py"
_UTILS = "src/transformers/modeling_utils.py"
_IMPORTED = re.compile(r"^from [.\w]+ import (\([^)]*\)|.*)$", re.MULTILINE)
_COMMIT = re.compile(r"upstream-commit ([0-9a-f]{7,64})")
_VERSION = re.compile(r"version >= (\d+(?:\.\d+)*)")
_PROBE = re.compile(r"probe ([a-z0-9-]+)")


@dataclass(frozen=True)
class Condition:
    """A parsed removal condition."""

    text: str
    is_met: Callable[[Target, Read], bool]


def parse(name: str, field: str) -> Condition:
    """Parse the condition in a header's field. Raises PatchError for an unknown one."""
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
    """Whether the tree's history contains a commit; False where a shallow clone has no history."""
    if not (target.root / ".git").exists():
        return False
    try:
        git_process.run(target.root, "merge-base", "--is-ancestor", commit, "HEAD")
    except proc.ProcError:
        return False
    return True


def _has_reached(target: Target, read: Read, version: str) -> bool:
    found = version_of(target.name, read)
    return found is not None and _numbers(found) >= _numbers(version)


def _passes(_target: Target, read: Read, probe: str) -> bool:
    return PROBES[probe](read)


def version_of(upstream: str, read: Read) -> str | None:
    """The version that an upstream's files state, None if there is none."""
    if upstream not in VERSIONS:
        return None
    path, pattern = VERSIONS[upstream]
    match = re.search(pattern, read(upstream, path) or "", re.MULTILINE)
    return match[1] if match else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def pristine_reader(targets: Mapping[str, Target]) -> Read:
    """Return a function that reads upstream files without patches: the pristine copy where there is one."""

    def read(upstream: str, path: str) -> str | None:
        target = targets.get(upstream)
        if target is None or path not in reads(upstream):
            return None
        node = tree.read(target.root, path + COPY) or tree.read(target.root, path)
        return None if node is None or node.is_folder else node.data.decode("utf-8", "replace")

    return read


def blip_imports_resolve(read: Read) -> bool:
    """Whether transformers.modeling_utils has every name that sd-scripts' BLIP imports from it."""
    import ast

    module = "transformers.modeling_utils"
    blip, utils = read("sd-scripts", _BLIP), read("transformers", _UTILS)
    if blip is None or utils is None:
        return False
    imports = (node for node in ast.walk(ast.parse(blip)) if isinstance(node, ast.ImportFrom) and node.module == module)
    wanted = {alias.name for node in imports for alias in node.names}
    return all(_binds(utils, name) for name in wanted)


def _binds(source: str, name: str) -> bool:
    if re.search(rf"^(?:def|class) {name}\b|^{name}\b.*=", source, re.MULTILINE):
        return True
    return any(re.search(rf"\b{name}\b", names) for names in _IMPORTED.findall(source))


def resume_counts_hold(read: Read) -> bool:
    """Whether sd-scripts no longer takes the steps left in an epoch for the total number of steps done."""
    script = read("sd-scripts", _TRAIN_NETWORK)
    return script is not None and not re.search(r"^ +global_step = initial_step$", script, re.MULTILINE)


# The names that `Removal-Condition: probe NAME` may use.
PROBES: dict[str, Callable[[Read], bool]] = {
    "blip-imports-resolve": blip_imports_resolve,
    "resume-counts-hold": resume_counts_hold,
}
# The files that probes read; they can read no others.
_FILES = {
    "sd-scripts": (_BLIP, _TRAIN_NETWORK),
    "transformers": (_UTILS,),
}
# The file in which each upstream states its version, and the pattern to find it.
VERSIONS = {
    "transformers": ("src/transformers/__init__.py", r'^__version__ = "(\d+(?:\.\d+)*)'),
    "sd-scripts": ("README.md", r"\*\*Version (\d+(?:\.\d+)*) "),
}


def reads(upstream: str) -> tuple[str, ...]:
    """The files of an upstream that a removal condition may read."""
    said = (VERSIONS[upstream][0],) if upstream in VERSIONS else ()
    return (*said, *_FILES.get(upstream, ()))
