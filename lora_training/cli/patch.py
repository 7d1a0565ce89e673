"""`lora patch`: the patches of the pinned upstreams."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lora_training import nearest, workspace
from lora_training.cli import patch_formatting
from lora_training.cli.app import Group
from lora_training.cli.output import answer, json_option, print_file, print_json
from lora_training.errors import PatchError, UpstreamError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lora_training.patching.series import Target
    from lora_training.workspace import Workspace


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def patch() -> None:
    """The changes that this project makes to the pinned source trees."""


def _ad_hoc_options(command: Any) -> Any:
    """Add the options that make a command work on any folder instead of the upstreams."""
    strip = click.option(
        "--strip", type=click.IntRange(0, 4096), metavar="N", help="With --tree: leading folders to strip."
    )
    files = click.option(
        "--patch", "files", multiple=True, type=_FILE, metavar="FILE", help="With --tree: a patch file."
    )
    return _tree_option(files(strip(json_option(command))))


_PATH = click.Path(path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_tree_option = click.option("--tree", type=_PATH, metavar="DIR", help="Work on any folder instead of the upstreams.")


def _is_ad_hoc(tree: Path | None, files: tuple[Path, ...], strip: int | None, upstreams: tuple[str, ...] = ()) -> bool:
    if tree is None and (files or strip is not None):
        raise click.UsageError("--patch and --strip go with --tree")
    if tree is not None and not files:
        raise click.UsageError("--tree needs at least one --patch")
    if tree is not None and upstreams:
        raise click.UsageError(f"--tree takes the place of {' '.join(upstreams)}")
    return tree is not None


def _checkout(names: Sequence[str] = ()) -> tuple[Workspace, list[Target]]:
    """Return the checkout, and the named upstreams as targets, by default all."""
    from lora_training.app.targets import targets

    here = workspace.find()
    return here, targets(here, names)


def _whole(verb: str, names: Sequence[str]) -> Sequence[str]:
    """Return the names of the upstreams. Raises UpstreamError for a patch of one."""
    from lora_training.patching import series

    here = workspace.find()
    for name in names:
        upstream = name.partition("/")[0]
        folder = here.patches / upstream
        if upstream in here.upstreams and any(name in _names(upstream, full) for full in series.names(folder)):
            raise UpstreamError(
                f"{name} is one patch of a series, and a series goes in and out as a whole",
                hint=f"`lora patch {verb} {upstream}` is for all of it; `lora patch remove {name}` takes that one out",
            )
    return names


def _upstreams(_context: click.Context, _argument: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of the upstreams for the shell's completion."""
    return [name for name in workspace.find().upstreams if name.startswith(incomplete)]


def _patches(context: click.Context, _argument: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of the patches for the shell's completion, without UPSTREAM/ where the word begins so."""
    from lora_training.patching import series
    from lora_training.runtime import registry

    here = workspace.find()
    chosen = context.params.get("upstream")
    upstreams = [chosen] if chosen else here.upstreams
    known = [f"{upstream}/{name}" for upstream in upstreams for name in series.names(here.patches / upstream)]
    if context.info_name == show.name:
        known += [f"runtime/{item.name}" for item in registry.listing()]
    bare = [name.partition("/")[2] for name in known]
    return [name for name in known if name.startswith(incomplete) and not chosen] or [
        name for name in bare if name.startswith(incomplete)
    ]


@patch.command()
@click.argument("upstreams", nargs=-1, shell_complete=_upstreams)
@_ad_hoc_options
def apply(
    upstreams: tuple[str, ...], tree: Path | None, files: tuple[Path, ...], strip: int | None, *, as_json: bool
) -> None:
    """Apply every patch (of those UPSTREAMS), or none if one fails."""
    if _is_ad_hoc(tree, files, strip, upstreams) and tree:
        from lora_training.patching import adhoc

        patch_formatting.report_ad_hoc(tree, "applied", adhoc.apply(tree, files, strip), as_json=as_json)
        return
    from lora_training.patching import engine

    patch_formatting.report(engine.apply(*_checkout(_whole("apply", upstreams))), as_json=as_json)


@patch.command()
@click.argument("upstreams", nargs=-1, shell_complete=_upstreams)
@_ad_hoc_options
@click.option(
    "--keep-edits", type=_PATH, metavar="FILE", help="Write what was edited by hand to FILE, as a patch, first."
)
def revert(
    upstreams: tuple[str, ...],
    tree: Path | None,
    files: tuple[Path, ...],
    strip: int | None,
    keep_edits: Path | None,
    *,
    as_json: bool,
) -> None:
    """Restore every patched file (of those UPSTREAMS) byte for byte."""
    if tree and keep_edits:
        raise click.UsageError("--keep-edits is for the upstreams, not for --tree")
    if _is_ad_hoc(tree, files, strip, upstreams) and tree:
        from lora_training.patching import adhoc

        patch_formatting.report_ad_hoc(tree, "reverted", adhoc.revert(tree, files, strip), as_json=as_json)
        return
    from lora_training.patching import engine, series

    here, wanted = _checkout(_whole("revert", upstreams))
    # a missing tree has nothing to revert, and must not keep the others from it
    existing = [target for target in wanted if upstreams or series.is_there(target)]
    patch_formatting.report(engine.revert(here, existing or wanted, keep_edits), as_json=as_json)


@patch.command()
@_tree_option
@json_option
def recover(tree: Path | None, *, as_json: bool) -> None:
    """Finish or undo an interrupted command, and do nothing else."""
    from lora_training.patching import adhoc, engine

    recovered = adhoc.recover(tree) if tree else engine.recover(workspace.find())
    line = patch_formatting.recovered_line(recovered) if recovered else "nothing to recover"
    answer({"recovered": patch_formatting.recovered(recovered)}, [line], as_json=as_json)


@patch.command()
@_ad_hoc_options
def verify(tree: Path | None, files: tuple[Path, ...], strip: int | None, *, as_json: bool) -> int:
    """Check pins, trees, patches and PATCHES.md. Exit code 1 when something is wrong."""
    if _is_ad_hoc(tree, files, strip) and tree:
        from lora_training.patching import adhoc

        problems, recovered = adhoc.verify(tree, files, strip)
        patch_formatting.report_verified_ad_hoc(problems, recovered, as_json=as_json)
        return 1 if problems else 0
    from lora_training.app.targets import fit_again, runtime_problems
    from lora_training.patching import verify as checks

    here, wanted = _checkout()
    found = checks.verify(here, wanted)
    # runtime patches are for patched trees: where those are not in order, theirs is the cure to name
    again = ""
    if not any(problem.where for problem in found.problems):
        found = replace(found, problems=(*found.problems, *runtime_problems(here)))
        again = fit_again(here)
    patch_formatting.report_verified(found, again, as_json=as_json)
    return 1 if found.problems else 0


@patch.command()
@json_option
def status(*, as_json: bool) -> None:
    """Show the commit of each tree, how many patches are applied, and edited files."""
    from lora_training.patching.verify import status as read

    rows = read(*_checkout())
    lines = (line for row in rows for line in row.line().splitlines())
    answer({"upstreams": [asdict(row) for row in rows]}, lines, as_json=as_json)


@patch.command(name="list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the patches of each tree in order, and the runtime patches."""
    from lora_training.patching import series
    from lora_training.runtime import registry

    rows = [
        {"upstream": target.name, "name": item.name, "description": item.fields.get("Description", "").split("\n")[0]}
        for target in _checkout()[1]
        for item in series.read_drafts(target.patches)
    ]
    lines = [f"{row['upstream']}/{row['name']}: {row['description']}" for row in rows]
    runtime = registry.listing()
    for item in runtime:
        note = " (taken out)" if item.taken_out else " (on by default)" if item.on_by_default else ""
        lines.append(f"runtime/{item.name}{note}: {item.description}")
    answer({"patches": rows, "runtime": [asdict(item) for item in runtime]}, lines, as_json=as_json)


@patch.command()
@click.argument("name", shell_complete=_patches)
@json_option
def show(name: str, *, as_json: bool) -> None:
    """Print one patch with its header. NAME may be its number or title, after UPSTREAM/ where several have it."""
    from lora_training.patching import docs, series

    here, wanted = _checkout()
    bare = name.removeprefix("runtime/")
    runtime = docs.runtime_patch(here, bare)
    if runtime is not None:
        answer({"upstream": "runtime", "name": bare, "text": runtime}, runtime.splitlines(), as_json=as_json)
        return
    target, full = _find(wanted, name)
    if as_json:
        draft = next(draft for draft in series.read_drafts(target.patches) if draft.name == full)
        files = list(draft.patch.paths)
        print_json({"upstream": target.name, "name": full, "header": draft.fields, "files": files})
    else:
        print_file((target.patches / full).read_bytes())


def _find(targets: Sequence[Target], name: str) -> tuple[Target, str]:
    """Return the only patch that goes by that name or number, and its target."""
    from lora_training.patching import series

    short = name.removesuffix(".patch")
    found = [(t, full) for t in targets for full in series.names(t.patches) if short in _names(t.name, full)]
    if not found:
        known = [each for t in targets for full in series.names(t.patches) for each in _names(t.name, full)]
        raise PatchError(f"there is no patch {name}", hint=nearest.hint(name, known) or "`lora patch list` shows them")
    if len(found) > 1:
        both = ", ".join(f"{target.name}/{full}" for target, full in found)
        raise PatchError(f"there are {len(found)} patches {name}", hint=f"name one of {both}")
    return found[0]


def _names(upstream: str, full: str) -> set[str]:
    """Return all names of a patch: number and title, or one of them, with or without its upstream."""
    name = full.removesuffix(".patch")
    number, _, title = name.partition("-")
    found = {name, number, number.lstrip("0"), title if number.isdecimal() else name} - {""}
    return found | {f"{upstream}/{each}" for each in found}


@patch.command()
@click.argument("name", shell_complete=_patches)
@json_option
def remove(name: str, *, as_json: bool) -> None:
    """Take one patch out of its tree, the series, patches.lock and PATCHES.md. NAME is as for `show`."""
    from lora_training.patching import remove as removing

    here, wanted = _checkout()
    target, full = _find(wanted, name)
    patch_formatting.report_removed(target.name, removing.remove(here, wanted, target, full), as_json=as_json)


@patch.command()
@json_option
def lock(*, as_json: bool) -> None:
    """Write patches.lock from the patch files and the pristine trees, and show the changes."""
    from lora_training.patching import relock

    patch_formatting.report_locked(relock.lock(*_checkout()), as_json=as_json)


@patch.command()
@click.argument("upstream", shell_complete=_upstreams)
@click.argument("title")
@click.argument("files", nargs=-1)
@json_option
def new(upstream: str, title: str, files: tuple[str, ...], *, as_json: bool) -> None:
    """Make a patch of the edits in UPSTREAM's tree (and of new FILES), or an empty one."""
    from lora_training.patching import authoring

    here, (target,) = _checkout([upstream])
    patch_formatting.report_written(authoring.new(here, target, title, files), as_json=as_json)


@patch.command()
@click.argument("upstream", shell_complete=_upstreams)
@click.argument("name", required=False, shell_complete=_patches)
@click.option("--file", "files", multiple=True, metavar="FILE", help="A file that is new in the tree.")
@json_option
def refresh(upstream: str, name: str | None, files: tuple[str, ...], *, as_json: bool) -> None:
    """Add the edits in UPSTREAM's tree to its last patch, or to NAME."""
    from lora_training.patching import authoring

    here, (target,) = _checkout([upstream])
    full = _find([target], name)[1] if name else None
    patch_formatting.report_written(authoring.refresh(here, target, full, files), as_json=as_json)


@patch.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 when PATCHES.md is out of date.")
@json_option
def docs(*, check: bool, as_json: bool) -> int:
    """Write PATCHES.md from the patches' headers and patches/docs."""
    from lora_training.patching import docs as documents

    here, wanted = _checkout()
    current = documents.is_current(here, wanted) if check else not documents.write(here, wanted)
    done = "is current" if current else "is out of date; run `lora patch docs`" if check else "written"
    document = {"current": current, "written": not current and not check}
    answer(document, [f"{documents.DOCUMENT} {done}"], as_json=as_json)
    return 1 if check and not current else 0
