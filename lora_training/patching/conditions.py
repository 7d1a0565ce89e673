"""Check whether a patch is still needed: the first line of its `Removal-Condition`.

`upstream-commit SHA` - the pinned commit contains that commit;
`version >= X` - the upstream has at least that version;
`probe NAME` - the function in `PROBES` by that name returns True.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from lora_training import git_process, proc
from lora_training.errors import PatchError
from lora_training.patching.series import Target
from lora_training.patching.transaction import fs
from lora_training.patching.tree_state import COPY

# A pristine file of an upstream as text: read(upstream, path), None when there is none.
Read = Callable[[str, str], "str | None"]

_BLIP = "finetune/blip/med.py"
_TRAIN_NETWORK = "train_network.py"
_UTILS = "src/transformers/modeling_utils.py"
_IMPORTED = re.compile(r"^from [.\w]+ import (\([^)]*\)|.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Condition:
    """A parsed removal condition."""

    text: str
    is_met: Callable[[Target, Read], bool]


def parse(name: str, field: str) -> Condition:
    """Parse the condition in a header's field. Raises PatchError for an unknown one."""
    text = field.split("\n", 1)[0].strip()
    for pattern, check in _KINDS.items():
        match = re.fullmatch(pattern, text)
        if match and (check is not _passes or match[1] in PROBES):
            return Condition(text, partial(check, match[1]))
    known = ", ".join(sorted(PROBES))
    raise PatchError(
        f"{name}: the removal condition {text!r} cannot be carried out",
        hint=f"write `upstream-commit SHA`, `version >= X` or `probe NAME`; probes: {known}",
    )


def _contains(commit: str, target: Target, _read: Read) -> bool:
    """Return whether the tree's history contains a commit; False where a shallow clone has no history."""
    if not (target.root / ".git").exists():
        return False
    try:
        git_process.run(target.root, "merge-base", "--is-ancestor", commit, "HEAD")
    except proc.ProcError:
        return False
    return True


def _has_reached(version: str, target: Target, read: Read) -> bool:
    found = version_of(target.name, read)
    return found is not None and [*map(int, found.split("."))] >= [*map(int, version.split("."))]


def _passes(probe: str, _target: Target, read: Read) -> bool:
    return PROBES[probe](read)


_KINDS: dict[str, Callable[[str, Target, Read], bool]] = {
    r"upstream-commit ([0-9a-f]{7,64})": _contains,
    r"version >= (\d+(?:\.\d+)*)": _has_reached,
    r"probe ([a-z0-9-]+)": _passes,
}


def version_of(upstream: str, read: Read) -> str | None:
    """Return the version that an upstream's files state, None if there is none."""
    if upstream not in VERSIONS:
        return None
    path, pattern = VERSIONS[upstream]
    match = re.search(pattern, read(upstream, path) or "", re.MULTILINE)
    return match[1] if match else None


def pristine_reader(targets: Mapping[str, Target]) -> Read:
    """Return a function that reads upstream files without patches: the pristine copy where there is one."""

    def read(upstream: str, path: str) -> str | None:
        target = targets.get(upstream)
        if target is None:
            return None
        node = fs.read(target.root, path + COPY) or fs.read(target.root, path)
        return None if node is None or node.is_folder else node.data.decode("utf-8", "replace")

    return read


def blip_imports_resolve(read: Read) -> bool:
    """Return whether transformers.modeling_utils has every name that sd-scripts' BLIP imports from it."""
    import ast

    module = "transformers.modeling_utils"
    blip, utils = read("sd-scripts", _BLIP), read("transformers", _UTILS)
    if blip is None or utils is None:
        return False
    imports = (node for node in ast.walk(ast.parse(blip)) if isinstance(node, ast.ImportFrom) and node.module == module)
    names = {alias.name for node in imports for alias in node.names}
    imported = "\n".join(_IMPORTED.findall(utils))
    return all(
        re.search(rf"^(?:def|class) {name}\b|^{name}\b.*=", utils, re.MULTILINE) or re.search(rf"\b{name}\b", imported)
        for name in names
    )


def resume_counts_hold(read: Read) -> bool:
    """Return whether sd-scripts no longer takes the steps left in an epoch for the total number of steps done."""
    script = read("sd-scripts", _TRAIN_NETWORK)
    return script is not None and not re.search(r"^ +global_step = initial_step$", script, re.MULTILINE)


# The names that `Removal-Condition: probe NAME` may use.
PROBES: dict[str, Callable[[Read], bool]] = {
    "blip-imports-resolve": blip_imports_resolve,
    "resume-counts-hold": resume_counts_hold,
}
# The file in which each upstream states its version, and the pattern to find it.
VERSIONS = {
    "transformers": ("src/transformers/__init__.py", r'^__version__ = "(\d+(?:\.\d+)*)'),
    "sd-scripts": ("README.md", r"\*\*Version (\d+(?:\.\d+)*) "),
}
