"""Removal probes: functions of ours that look at pristine upstream files and say whether a patch is still needed."""

from __future__ import annotations

import re
from collections.abc import Callable

# A pristine file of an upstream as text: read(upstream, path), None when it is not there.
Read = Callable[[str, str], "str | None"]

_BLIP = "finetune/blip/med.py"
_TRAIN_NETWORK = "train_network.py"
_UTILS = "src/transformers/modeling_utils.py"
_IMPORTED = re.compile(r"^from [.\w]+ import (\([^)]*\)|.*)$", re.MULTILINE)


def blip_imports_resolve(read: Read) -> bool:
    """Whether sd-scripts' BLIP finds in transformers.modeling_utils all that it imports from there."""
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
    """Whether a resumed training of sd-scripts no longer takes the steps left in an epoch for all that were done."""
    script = read("sd-scripts", _TRAIN_NETWORK)
    return script is not None and not re.search(r"^ +global_step = initial_step$", script, re.MULTILINE)


# The names that `Removal-Condition: probe NAME` may use.
PROBES: dict[str, Callable[[Read], bool]] = {
    "blip-imports-resolve": blip_imports_resolve,
    "resume-counts-hold": resume_counts_hold,
}
# Every file, by upstream, that a probe reads; it gets no other.
_FILES = {
    "sd-scripts": (_BLIP, _TRAIN_NETWORK),
    "transformers": (_UTILS,),
}
# Where each upstream says its version, and how.
VERSIONS = {
    "transformers": ("src/transformers/__init__.py", r'^__version__ = "(\d+(?:\.\d+)*)'),
    "sd-scripts": ("README.md", r"\*\*Version (\d+(?:\.\d+)*) "),
}


def reads(upstream: str) -> tuple[str, ...]:
    """The files of an upstream that a removal condition may look at."""
    said = (VERSIONS[upstream][0],) if upstream in VERSIONS else ()
    return (*said, *_FILES.get(upstream, ()))
