"""Comparison of the installed packages with the pinned ones."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lora_training.app.doctor.finding import Finding, ok, problem, warn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PIN = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)(?: *; *([^\\]+?))? *\\?")
_SHOWN = 5
_MEND = "`make setup` installs what is pinned"


def against(pinned: Path, installed: Mapping[str, str]) -> Iterator[Finding]:
    """Check for packages that are missing or of another version; `installed` has versions by normalised name."""
    try:
        wanted = pins(pinned.read_text(encoding="utf-8"))
    except FileNotFoundError:
        yield warn("packages", f"{pinned} is not there to compare with")
        return
    missing = [name for name in wanted if name not in installed]
    other = [name for name, version in wanted.items() if installed.get(name, version) != version]
    if missing:
        yield problem("packages", f"not installed: {_some(missing)}", _MEND)
    if other:
        lines = [f"{name} {installed[name]} (pinned: {wanted[name]})" for name in other]
        yield warn("packages", f"other versions: {_some(lines)}", _MEND)
    if not missing and not other:
        yield ok("packages", f"all {len(wanted)} as pinned in {pinned.name}")


def pins(text: str) -> dict[str, str]:
    """Return the versions that a requirements file pins for this Python and machine, by normalised package name."""
    from lora_training.supervise.environment import normal

    found = (_PIN.fullmatch(line.rstrip()) for line in text.splitlines())
    return {normal(match[1]): match[2] for match in found if match and _applies(match[3])}


def _applies(marker: str | None) -> bool:
    """Return whether the marker after the `;` applies here; False if `packaging` is not installed."""
    if marker is None:
        return True
    try:
        from packaging.markers import Marker
    except ImportError:
        return False
    return Marker(marker.strip()).evaluate()


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else ""
    return ", ".join(names[:_SHOWN]) + more


def transformers(tree: Path) -> Iterator[Finding]:
    """Check that the import of transformers finds the patched tree. Nothing is imported for that."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        yield problem("packages", "transformers is not installed", _MEND)
        return
    found = Path(spec.origin).resolve()
    if not found.is_relative_to(tree.resolve()):
        yield problem("packages", f"transformers is imported from {found.parent}, not from {tree}", _MEND)
