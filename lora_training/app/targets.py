"""The targets of patches: upstreams for patch files, and places in sd-scripts for runtime patches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lora_training
from lora_training.errors import PatchError
from lora_training.patching import series
from lora_training.patching.series import Target
from lora_training.problems import Problem
from lora_training.upstream import pins
from lora_training.workspace import Workspace

_UPSTREAM = "sd-scripts"
_PACKAGE = Path(lora_training.__file__).resolve().parent


def targets(workspace: Workspace, names: Sequence[str] = ()) -> list[Target]:
    """Return the named upstreams as targets of patch commands; all of them when none is named."""
    return [target(workspace, name) for name in names or workspace.upstreams]


def require_verified(here: Workspace, checked: Sequence[Target]) -> None:
    """Raise UpstreamError for a tree that is missing or not at its pin, and PatchError for one that fails to verify."""
    from lora_training.patching import verify as patch_verify

    for each in checked:
        series.check_at_pin(each)
    problems = patch_verify.trees(here, checked).problems
    if problems:
        raise PatchError("the source trees failed verification", hint="\n".join(patch_verify.lines(problems)))


def target(workspace: Workspace, name: str) -> Target:
    """Return one upstream as a target. Raises UpstreamError for an unknown name or one without a pin."""
    upstream = workspace.upstream(name)
    pin, head = pins.pin(workspace, name), pins.head(upstream)
    manifest = partial(pins.manifest, upstream.path) if head.origin in {"sdist", "sealed"} else None
    changed = partial(pins.changes, upstream, head)
    return Target(name, upstream.path, workspace.patches / name, head.commit, pin, manifest, changed)


def runtime_problems(here: Workspace) -> list[Problem]:
    """Return the problems with the targets, in the upstream's tree and in the installed packages."""
    from lora_training.runtime import registry

    if not are_checked(here):
        return []
    found = registry.check(_sd_scripts(here), cache=here.cache / "checked")
    # in a tree without drift, which the callers see to, only a patch can have changed a file
    is_patched = any(f"{_sd_scripts(here)}/" in each.message for each in found)
    hint = cure({each.where for each in found}, is_patched=is_patched)
    return [Problem(each.message, hint, where=_UPSTREAM) for each in found]


def fit_again(here: Workspace) -> str:
    """Return which runtime patches were taken out though they fit the tree, and what brings them back; or nothing."""
    from lora_training.runtime import registry

    if not registry.taken_out() or not are_checked(here):
        return ""
    unfit = {each.where for each in registry.check(_sd_scripts(here), registry.taken_out(), here.cache / "checked")}
    fit = ", ".join(sorted(registry.taken_out() - unfit))
    return fit and f"taken out, but they fit: {fit}; `lora upstream bump {_UPSTREAM} HEAD --accept` brings them back"


def cure(names: Iterable[str], *, is_patched: bool = False) -> str:
    """Return a hint for runtime patches that do not fit; `is_patched` when a patch file is the likely cause."""
    unfit = sorted(names)
    ways = [
        "restore the pinned packages and trees: `make setup`, `lora patch verify`",
        f"train without: `{' '.join(f'--set runtime.{name}=false' for name in unfit)}`",
        f"take out: `lora upstream bump {_UPSTREAM} HEAD --accept {' '.join(map(_without, unfit))}`",
    ]
    own = "where a patch of your own changed it, adapt the code and the digests in lora_training/runtime/patches"
    return "\nor ".join([own, *ways] if is_patched else [*ways, own])


def refuse_unfit(tree: Path, names: Iterable[str], cache: Path | None) -> None:
    """Raise PatchError for the first of those runtime patches that does not fit its targets in `tree`."""
    from lora_training.runtime import registry

    found = registry.check(tree, names, cache)
    if found:
        unfit = {each.where for each in found}
        others = sorted(unfit - {found[0].where})
        more = f"; nor do {', '.join(others)}" if others else ""
        raise PatchError(f"a runtime patch does not fit: {found[0].message}{more}", hint=cure(unfit))


@dataclass(frozen=True)
class Unfit:
    """A target of a runtime patch that is missing or changed at another commit."""

    patch: str
    on_by_default: bool
    target: str
    file: str
    what: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {**asdict(self), "mend": self.mend}

    @property
    def mend(self) -> str:
        """A hint at what to do about it."""
        out = f"`--without {self.patch}` takes it out" if self.on_by_default else "`--accept` takes it out by itself"
        return f"adapt it and its target's digest in lora_training/runtime/patches, or do without it: {out}"


def unfit_targets(here: Workspace, upstream: str, trees: Sequence[Path]) -> list[Unfit]:
    """Return every target that does not fit in the new tree of an upstream; the first of `trees` that has it counts."""
    from lora_training.runtime import registry, verify

    if upstream != _UPSTREAM or not are_checked(here):
        return []
    known = registry.available()
    found = []
    for each in verify.targets(known.values(), trees):
        file = each.file
        place = next((str(file.relative_to(tree)) for tree in trees if file and file.is_relative_to(tree)), None)
        # problems of installed packages do not depend on the commit
        if place or file is None:
            shown = place or f"{each.target.module} (no such module)"
            found.append(Unfit(each.patch, known[each.patch].on_by_default, each.target.name, shown, each.what))
    return found


def taken_out(found: Sequence[Unfit], names: Sequence[str]) -> list[str]:
    """Return the patches to disable at the new commit: those named, and unfit ones that are not on by default."""
    from lora_training.runtime import registry

    asked = {*names, *registry.taken_out()}
    return sorted({*names, *(each.patch for each in found if each.patch in asked or not each.on_by_default)})


def check_fit(found: Sequence[Unfit], out: Sequence[str]) -> None:
    """Raise PatchError when a patch that is on by default does not fit and is not disabled."""
    left = sorted({each.patch for each in found} - set(out))
    if left:
        raise PatchError(
            f"runtime patches that are on by default do not fit there: {', '.join(left)}",
            hint=f"nothing was changed; adapt them to that commit, or take them out: {' '.join(map(_without, left))}",
        )


def _without(name: str) -> str:
    return f"--without {name}"


def are_checked(here: Workspace) -> bool:
    """Return whether this package belongs to the checkout, and the tree exists."""
    return here.root.resolve() == _PACKAGE.parent and (_sd_scripts(here) / "library").is_dir()


def _sd_scripts(here: Workspace) -> Path:
    return here.root / "third_party" / _UPSTREAM
