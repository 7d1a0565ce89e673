"""`lora patch`: the changes that we carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lora_training import workspace
from lora_training.cli.output import json_option, print_json
from lora_training.errors import PatchError

if TYPE_CHECKING:
    from lora_training.patching.engine import Result
    from lora_training.patching.plan import Moved
    from lora_training.patching.transaction import Recovered


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def patch() -> None:
    """The changes that we carry on top of the pinned upstreams."""


@patch.command()
@json_option
def apply(*, as_json: bool) -> None:
    """Bring every upstream to the last step of its series: all patches or none."""
    from lora_training.cli.targets import targets
    from lora_training.patching import engine

    here = workspace.find()
    _report(engine.apply(here, targets(here)), as_json=as_json)


@patch.command()
@json_option
def revert(*, as_json: bool) -> None:
    """Bring every upstream back to pristine, byte for byte."""
    from lora_training.cli.targets import targets
    from lora_training.patching import engine

    here = workspace.find()
    _report(engine.revert(here, targets(here)), as_json=as_json)


@patch.command()
@json_option
def recover(*, as_json: bool) -> None:
    """Bring an interrupted command to its end, and nothing else."""
    from lora_training.patching import engine

    recovered = engine.recover(workspace.find())
    if as_json:
        print_json({"recovered": _recovered(recovered)})
    elif recovered is None:
        click.echo("nothing to recover")
    else:
        _say_recovered(recovered, err=False)


@patch.command()
@json_option
def verify(*, as_json: bool) -> int:
    """Check pins, files, patches, pristine copies, documents: exit 0 when all is as it should be, else 1."""
    from lora_training.cli.targets import targets
    from lora_training.patching.verify import verify as check

    here = workspace.find()
    answer = check(here, targets(here))
    _say_recovered(answer.recovered)
    if as_json:
        problems = [{"upstream": p.upstream, "what": p.what, "mend": p.mend} for p in answer.problems]
        document = {"ok": not problems, "steps": dict(answer.steps), "problems": problems}
        print_json(document | {"recovered": _recovered(answer.recovered)})
    else:
        for problem in answer.problems:
            click.echo(f"{problem.upstream}: {problem.what}\n  mend: {problem.mend}")
        click.echo("not as it should be" if answer.problems else "all patches are in, nothing drifted")
    return 1 if answer.problems else 0


@patch.command()
@json_option
def status(*, as_json: bool) -> None:
    """Where each upstream stands: its commit, the step it is at, the files that drifted."""
    from lora_training.cli.targets import targets
    from lora_training.patching.status import read

    here = workspace.find()
    rows = read(here, targets(here))
    if as_json:
        print_json({"upstreams": [row.as_dict() for row in rows]})
        return
    for row in rows:
        click.echo(row.line())


@patch.command(name="list")
@json_option
def list_(*, as_json: bool) -> None:
    """The patches of each upstream, in order."""
    from lora_training.cli.targets import targets
    from lora_training.patching import series

    rows = [
        {"upstream": target.name, "name": item.name, "description": item.fields["Description"].split("\n")[0]}
        for target in targets(workspace.find())
        for item in series.read(target.patches)
    ]
    if as_json:
        print_json({"patches": rows})
        return
    for row in rows:
        click.echo(f"{row['upstream']}/{row['name']}: {row['description']}")


@patch.command()
@click.argument("name")
@json_option
def show(name: str, *, as_json: bool) -> None:
    """One patch: its header, the files it touches, and the patch itself. NAME may be its number."""
    from lora_training.cli.targets import targets
    from lora_training.patching import series

    for target in targets(workspace.find()):
        for item in series.read(target.patches):
            if name in (item.name, f"{target.name}/{item.name}", item.name.split("-")[0]):
                if as_json:
                    files = list(item.patch.paths)
                    print_json({"upstream": target.name, "name": item.name, "header": item.fields, "files": files})
                else:
                    click.echo(item.data, nl=False)
                return
    raise PatchError(f"there is no patch {name}", hint="`lora patch list` shows them")


@patch.command()
@json_option
def lock(*, as_json: bool) -> None:
    """Write patches.lock from the patch files and the pristine trees, and show what that changes."""
    from lora_training.cli.targets import targets
    from lora_training.patching import relock

    here = workspace.find()
    locked = relock.lock(here, targets(here))
    _say_recovered(locked.recovered)
    if as_json:
        moved = [_moved(m) for m in locked.moved]
        print_json({"changes": list(locked.changes), "moved": moved, "recovered": _recovered(locked.recovered)})
        return
    for line in (*locked.changes, *map(_moved_line, locked.moved)):
        click.echo(line)
    click.echo("patches.lock written" if locked.changes else "patches.lock is current")


def _report(result: Result, *, as_json: bool) -> None:
    _say_recovered(result.recovered)
    if as_json:
        print_json({"upstreams": [_tree(row) for row in result.trees], "recovered": _recovered(result.recovered)})
        return
    for row in result.trees:
        words = {"applied": "patches applied", "reverted": "back to pristine", "unchanged": "nothing to do"}
        files = f", {len(row.files)} files written" if row.files else ""
        click.echo(f"{row.name}: {words[row.done]}{files}")
        for moved in row.moved:
            click.echo(f"  {_moved_line(moved)}")


def _tree(row: Any) -> dict[str, Any]:
    moved = [_moved(m) for m in row.moved]
    return {"name": row.name, "done": row.done, "patches": list(row.patches), "files": list(row.files), "moved": moved}


def _moved(moved: Moved) -> dict[str, Any]:
    return {"patch": moved.patch, "file": moved.path, "line": moved.line, "offset": moved.offset}


def _moved_line(moved: Moved) -> str:
    return f"{moved.patch}, line {moved.line}: found {moved.offset:+d} lines from where it says, in {moved.path}"


def _recovered(recovered: Recovered | None) -> dict[str, str] | None:
    return None if recovered is None else {"command": recovered.command, "outcome": recovered.outcome}


def _say_recovered(recovered: Recovered | None, *, err: bool = True) -> None:
    if recovered is not None:
        click.echo(f"note: an interrupted `lora patch {recovered.command}` was {recovered.outcome}", err=err)
