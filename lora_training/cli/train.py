"""`lora train`: from one TOML file to a LoRA that holds up."""

from __future__ import annotations

import os
import sys
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lora_training import workspace
from lora_training.cli.output import ProgressLine
from lora_training.errors import PatchError, TrainingError, UpstreamError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lora_training.config import Config
    from lora_training.config.schema import Schema
    from lora_training.launch.spec import LaunchSpec
    from lora_training.patching.series import Target
    from lora_training.supervise.result import Result
    from lora_training.workspace import Workspace

_UPSTREAM = "sd-scripts"
# the only assets there are: what `configs/smoke.toml` trains on
_SMOKE = "smoke"
_LOG_TAIL = 25


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a value; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Print the exact command as one shell line, and write nothing.")
@click.option("-v", "--verbose", is_flag=True, help="Show upstream's own log as it is written.")
def train(file: Path, *, sets: tuple[str, ...], dry_run: bool, verbose: bool) -> None:
    """Train a LoRA as FILE says."""
    from lora_training.patching import site

    here = workspace.find()
    # no patch command may change the trees between the check and upstream's imports
    with site.shared_lock(here):
        plan = _plan(here, file, sets)
        if dry_run:
            click.echo(plan.spec.shell())
            return
        result = _run(here, plan, verbose=verbose)
    _report(plan, result)


@dataclass(frozen=True)
class Tree:
    """What trains: upstream at its pin with our patches, or the miniature."""

    path: Path
    title: str
    patches: tuple[str, ...] = ()
    is_miniature: bool = False


@dataclass(frozen=True)
class Plan:
    """All that a run needs, found out before anything is written. `dataset` is the text of `folder/dataset.json`."""

    tree: Tree
    spec: LaunchSpec
    runtime: Mapping[str, Mapping[str, Any]]
    output: Path
    dataset: str | None
    assets: str | None

    @property
    def folder(self) -> Path:
        """Where the run keeps its log and what it was started with."""
        return self.output.with_suffix(".run")


def _plan(here: Workspace, file: Path, sets: tuple[str, ...]) -> Plan:
    from lora_training import config as cfg
    from lora_training.launch import spec
    from lora_training.runtime import bootstrap

    config = cfg.load(file, sets=sets, environ={**os.environ, workspace.CACHE_VARIABLE: str(here.cache)})
    tree = _tree(here, config)
    schema = _checked_schema(here, config, tree)
    runtime = _runtime(config, tree)
    dataset = cfg.dataset_document(config)
    flags = cfg.to_argv(config, schema)
    output = _output(flags)
    if dataset:
        flags += ["--dataset_config", str(output.with_suffix(".run") / "dataset.json")]
    launched = spec.one_process(
        sys.executable,
        tree.path / f"{config.script}.py",
        flags,
        runtime=bootstrap.environment(runtime),
        mixed_precision=str(config.launch.mixed_precision or config.values.get("mixed_precision", "no")),
        cpu_threads=config.launch.num_cpu_threads_per_process or 1,
    )
    return Plan(tree, launched, runtime, output, dataset, config.run.assets)


def _tree(here: Workspace, config: Config) -> Tree:
    """Upstream at its pin, every patch in and nothing drifted; for the smoke run alone, the miniature will do."""
    from lora_training import miniature
    from lora_training.cli.targets import targets
    from lora_training.patching import verify
    from lora_training.upstream import pins

    upstream = here.upstream(_UPSTREAM)
    is_here = pins.head(upstream).commit is not None
    if not is_here and config.run.assets != _SMOKE:
        raise UpstreamError(
            f"{_UPSTREAM} is not there: {upstream.path}",
            hint=f"`lora upstream sync` brings it from {upstream.url}; README, Mirrors, where that is out of reach",
        )
    checked = [target for target in targets(here) if is_here or target.name != _UPSTREAM]
    problems = verify.trees(here, checked).problems
    if problems:
        lines = [f"{problem.upstream}: {problem.what}; mend: {problem.mend}" for problem in problems]
        raise PatchError("the trees are not what they should be", hint="\n".join(lines))
    patches = tuple(f"{target.name}/{name}" for target in checked for name in _series(target))
    if not is_here:
        return Tree(Path(miniature.__file__).parent, "the miniature (NOT sd-scripts)", patches, is_miniature=True)
    return Tree(upstream.path, f"{_UPSTREAM} {pins.pin(here, _UPSTREAM)}", patches)


def _checked_schema(here: Workspace, config: Config, tree: Tree) -> Schema:
    """The script's schema, against which the configuration has been found right."""
    from lora_training.config import schema as schemas
    from lora_training.config.checks import Machine, check, installed_here, require
    from lora_training.runtime import registry

    if tree.is_miniature:
        # it knows the smoke run's flags alone, and says itself what it does not know
        require(config, config.problems)
        return schemas.flags_only(tree.path, config.script)
    schema = schemas.read(tree.path, config.script, cache=here.cache)
    require(config, check(config, schema, Machine(tuple(registry.available()), installed_here())))
    return schema


def _series(target: Target) -> tuple[str, ...]:
    from lora_training.patching import series

    return tuple(name.removesuffix(".patch") for name in series.names(target.patches))


def _runtime(config: Config, tree: Tree) -> dict[str, dict[str, Any]]:
    """The runtime patches that are switched on, with their settings."""
    from lora_training.runtime import registry

    return {} if tree.is_miniature else registry.chosen(config.runtime)


def _output(flags: list[str]) -> Path:
    """The file that upstream will write at the end; `last` and `safetensors` are its defaults."""
    given = {
        name: value for name, value in pairwise(flags) if name in {"--output_dir", "--output_name", "--save_model_as"}
    }
    name = f"{given.get('--output_name', 'last')}.{given.get('--save_model_as', 'safetensors')}"
    return Path(given["--output_dir"]) / name


def _run(here: Workspace, plan: Plan, *, verbose: bool) -> Result:
    from lora_training.supervise import child, result

    if plan.tree.is_miniature:
        _warn_of_miniature()
    if plan.assets == _SMOKE:
        _make_assets(here)
    plan.folder.mkdir(parents=True, exist_ok=True)
    if plan.dataset:
        (plan.folder / "dataset.json").write_text(plan.dataset, encoding="utf-8")
    (plan.folder / "command.sh").write_text(plan.spec.shell() + "\n", encoding="utf-8")
    before = result.fingerprint(plan.output)
    with closing(Log(plan.folder / "train.log", verbose=verbose)) as log:
        code = child.run(plan.spec, log)
    if code != 0:
        log.show_end()
        raise TrainingError(f"training ended with code {code}", hint=f"all it said is in {log.path}")
    return result.check(plan.output, before=before)


class Log:
    """The child's output: all of it in a file, and of it on the terminal what was asked for."""

    def __init__(self, path: Path, *, verbose: bool) -> None:
        self.path = path
        self._file = path.open("w", encoding="utf-8")
        self._verbose = verbose
        self._progress = ProgressLine()
        self._last: deque[str] = deque(maxlen=_LOG_TAIL)

    def close(self) -> None:
        """Keep what there is, and leave the terminal clean."""
        self._file.close()
        self._progress.close()

    def __call__(self, line: str) -> None:
        """Take one line."""
        self._file.write(line + "\n")
        self._file.flush()
        self._last.append(line)
        if self._verbose:
            click.echo(line, err=True)
        elif line.startswith("steps:"):
            self._progress(line)

    def show_end(self) -> None:
        """The last lines, for a run that failed, unless they were shown already."""
        if not self._verbose:
            click.echo("\n".join(self._last), err=True)


def _warn_of_miniature() -> None:
    click.echo(
        "warning: sd-scripts cannot be reached, so this run trains with the MINIATURE, a small stand-in of our own.\n"
        "warning: it shows that everything else works. `lora upstream sync` brings the real one.",
        err=True,
    )


def _make_assets(here: Workspace) -> None:
    """Make the smoke run's model and images, in a process of its own: that needs torch, and this one does without."""
    from lora_training import proc

    folder = here.cache / _SMOKE
    if not folder.exists():
        click.echo(f"making a tiny model, its tokenizer and some images in {folder}", err=True)
        proc.run([sys.executable, "-m", "lora_training.smoke", str(folder)], cwd=here.root)


def _report(plan: Plan, result: Result) -> None:
    click.echo(f"trained   {result.path}")
    click.echo(f"steps     {result.steps}")
    click.echo(f"upstream  {plan.tree.title}")
    click.echo(f"patches   {', '.join(plan.tree.patches) or 'none'}")
    click.echo(f"runtime   {', '.join(plan.runtime) or 'none'}")
    click.echo(f"log       {plan.folder / 'train.log'}")
