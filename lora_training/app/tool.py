"""Run a script of the pinned, patched sd-scripts: its arguments are checked before, its results afterwards."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lora_training.app import targets
from lora_training.app.checkout import Checkout
from lora_training.config.schema import reader, tools
from lora_training.config.schema.source import Tree
from lora_training.config.schema.tools import Script
from lora_training.errors import Interrupted, LoraError, TrainingError, UpstreamError, UsageError
from lora_training.launch import spec
from lora_training.launch.spec import LaunchSpec
from lora_training.patching import transaction
from lora_training.preflight import contents, images, listing, scan, weights
from lora_training.problems import Problem
from lora_training.runtime import bootstrap, registry
from lora_training.runtime.model import Start
from lora_training.stat_cache import StatCache
from lora_training.supervise import digests, result, signals
from lora_training.workspace import Workspace

Patches = Mapping[str, Mapping[str, Any]]
RECORD = "tools.jsonl"
_UPSTREAM = "sd-scripts"
# The runtime patches that a script needs, with their settings.
_RUNTIME: dict[str, Patches] = {"make_captions": {"blip": {}}}
# The arguments that name a file or folder to write, in all of upstream's scripts at the pin.
_WRITES = re.compile(
    r"(\w+_)?save_to|save_path|save_merged_model|model_to_save|out_?dir|out_json|output(_path|_dir)?|dst_\w+"
)
_IMAGES = re.compile(r"(train|conditioning)_data_dir|src_(dir|img_folder)")
_FILE = re.compile(r"\.(safetensors|ckpt|pth?|bin|jsonl?|toml|png|jpe?g|webp|bmp)$", re.IGNORECASE)
_ADDED_TO = (".json", ".jsonl")  # by upstream's metadata scripts
# It looks for the configuration of its model in the current folder.
_IN_ITS_FOLDER = ("make_captions",)
_TICK_S = 0.1


def tree(here: Workspace) -> Path:
    """Return the folder of sd-scripts."""
    return here.upstream(_UPSTREAM).path


def help_of(here: Workspace, name: str) -> str:
    """Return the help of a script's own parser. Raises UsageError for an unknown name."""
    path = tools.path_of(tree(here), name)
    return str(reader.parse(tree(here), {path: ()})[path]["help"])


@dataclass(frozen=True)
class Call:
    """A script with checked arguments: its input files and folders, and the files that it writes, by place in `words`.

    `script` is its path without `.py`; `folders` are those that it writes to as it goes.
    """

    name: str
    script: str
    words: tuple[str, ...]
    inputs: tuple[Path, ...]
    outputs: dict[int, Path]
    folders: tuple[Path, ...]
    is_recursive: bool
    runtime: Patches


def call(here: Workspace, name: str, given: Sequence[str], runtime: Patches | None = None) -> Call:
    """Check the arguments of a script. Raises UsageError for those that it would refuse, or that name missing files."""
    script = tools.path_of(tree(here), name)
    name = script.rpartition("/")[2]
    read = tools.parse(tree(here), script, given)
    words: list[str] = read["words"]
    values: dict[str, list[tuple[int, str]]] = read["values"]
    writes = {n: Path(word).absolute() for to, some in values.items() if _WRITES.fullmatch(to) for n, word in some}
    reads = {place: word for some in values.values() for place, word in some if place not in writes}
    inputs = {place: Path(word).absolute() for place, word in reads.items() if _exists(name, word)}
    outputs = {place: path for place, path in writes.items() if path.suffix and not path.is_dir()}
    for path in {*inputs.values()}.intersection(outputs.values()):
        if path.suffix not in _ADDED_TO:
            raise UsageError(f"{name} would write over {path}, which it reads", hint="write to another file")
    folders = tuple(path for path in writes.values() if path not in outputs.values())
    for folder in (word for to, some in values.items() if _IMAGES.fullmatch(to) for _, word in some):
        if not any(path.suffix in listing.extensions() for path in Path(folder).rglob("*")):
            raise UsageError(f"{name}: there are no images in {folder}")
    if name in _IN_ITS_FOLDER:
        words = [str(inputs.get(place, word)) for place, word in enumerate(words)]
    chosen = {**_RUNTIME.get(name, {}), **(runtime or {})}
    return Call(name, script, tuple(words), tuple(inputs.values()), outputs, folders, read["is_recursive"], chosen)


def _exists(name: str, word: str) -> bool:
    """Return whether an argument names a file or folder. Raises UsageError for a missing file."""
    try:
        if Path(word).exists():
            return True
    except (OSError, ValueError):  # such as a prompt, too long for a name
        return False
    if _FILE.search(word) and "://" not in word and "\n" not in word:
        raise UsageError(f"{name}: {word} does not exist", hint="paths are relative to the current folder")
    return False


def run(
    here: Workspace, name: str, words: Sequence[str], config: Path | None, progress: Callable[[str], None]
) -> dict[Path, bool]:
    """Run a script and return the files that it wrote, and whether each was there before. Raises LoraError.

    The runtime patches that `config` names are installed.
    """
    listed = tools.script(Tree(tree(here)), tools.path_of(tree(here), name))
    if listed.lacks:
        lacks = ", ".join(listed.lacks)
        raise UpstreamError(
            f"{listed.name} needs {lacks}", hint="`make setup` installs the pinned packages; install others by hand"
        )
    made = call(here, name, words, _named(config) if config else {})
    with transaction.shared_lock(here):
        targets.require_verified(here, targets.targets(here))
        before = _seen(made)
        with _noted(here, made, before) as written:
            with _staged(made) as staged:
                code = _wait(launched(here, made, staged))
                unreadable = list(_unreadable(made, before, progress))
                if code:
                    raise _failure(listed, code, unreadable)
                written.update(_finish(made, staged))
            written.update(_changed(made, before))
            for problem in unreadable:
                raise TrainingError(problem.message, hint=problem.hint)
    return written


def _named(config: Path) -> Patches:
    """Return the runtime patches in a configuration. Raises LoraError for unknown ones and for wrong settings."""
    table = Checkout(None).load(config, ()).runtime
    chosen = {name: {} if value is True else dict(value) for name, value in table.items() if value}
    registry.needed(chosen, Start((), os.environ))
    return chosen


def launched(here: Workspace, made: Call, staged: dict[int, Path]) -> LaunchSpec:
    """Return the child process of a call whose output files are `staged`."""
    words = [str(staged.get(place, word)) for place, word in enumerate(made.words)]
    script = tree(here) / f"{made.script}.py"
    environment = {**bootstrap.environment(made.runtime), bootstrap.SUPERVISOR: str(os.getpid())}
    cwd = script.parent if made.name in _IN_ITS_FOLDER else Path.cwd()
    return spec.tool(sys.executable, script, words, tree=tree(here), cwd=cwd, runtime=environment)


def _wait(child: LaunchSpec) -> int:
    """Run the child on our own terminal until it ends. Raises Interrupted after a signal, once it has ended."""
    with signals.counted() as asked:
        process = subprocess.Popen(child.argv, cwd=child.cwd, env=child.environment(os.environ))
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_TICK_S)
            if asked.count == 1:
                process.terminate()
            elif asked.count:
                process.kill()
    if asked.count:
        name = signal.Signals(asked.signum).name
        raise Interrupted(f"interrupted by {name}; what was not complete is removed", signum=asked.signum)
    return process.returncode


def _failure(tool: Script, code: int, unreadable: Sequence[Problem]) -> TrainingError:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    needs = [f"some of its options need {', '.join(tool.options_lack)}"] if tool.options_lack else []
    shown = f"its messages are above; `lora tool {tool.name} --help` shows its arguments"
    hint = "\n".join([shown, *needs, *(f"{each.message}\n{each.hint}" for each in unreadable)])
    return TrainingError(f"{tool.name} {how}", hint=hint)


# -- output files


@contextmanager
def _staged(made: Call) -> Iterator[dict[int, Path]]:
    """Yield a path in a new folder beside each output file, under the same name, since some scripts record that."""
    staged: dict[int, Path] = {}
    with ExitStack() as stack:
        for place, output in made.outputs.items():
            try:
                folder = TemporaryDirectory(prefix=f".{output.name}.", suffix=".partial", dir=output.parent)
            except OSError as exc:
                raise UsageError(f"{made.name} cannot write to {output.parent}: {exc.strerror}") from exc
            staged[place] = Path(stack.enter_context(folder), output.name)
            if output.suffix in _ADDED_TO and output.is_file():
                shutil.copyfile(output, staged[place])
        yield staged


def _finish(made: Call, staged: dict[int, Path]) -> dict[Path, bool]:
    """Check the files that a script wrote, and rename them. Raises TrainingError; then none is renamed."""
    found: dict[Path, Path] = {}
    for place, output in made.outputs.items():
        files = sorted(staged[place].parent.iterdir())  # some scripts write several, under names made from this one
        if not files:
            raise TrainingError(f"{made.name} ended without writing {output}", hint="its messages are above")
        found |= {path: output.parent / path.name for path in files}
    for path, output in found.items():
        _check(path, output)
    written = {output: output.exists() for output in found.values()}
    for path, output in found.items():
        path.replace(output)
    return written


def _check(path: Path, name: Path) -> None:
    """Check that a file is whole, and every value of a LoRA. Raises TrainingError that says `name`."""
    if wrong := weights.damage(path):
        raise TrainingError(f"{name} {wrong}")
    try:
        if path.suffix == ".safetensors" and any(key.endswith(result.UP) for key in contents.tensors(path)):
            result.check_values(path)
    except TrainingError as exc:
        raise TrainingError(exc.message.replace(str(path), str(name)), hint=exc.hint) from exc


# -- files that a call read and wrote


def _seen(made: Call) -> dict[Path, int]:
    """Return the files in the folders of a call, with the time of their last change."""
    folders = [path for path in (*made.inputs, *made.folders) if path.is_dir()]
    found = (path for folder in folders for path in (folder.rglob("*") if made.is_recursive else folder.iterdir()))
    return {path: path.stat().st_mtime_ns for path in found if path.is_file()}


def _changed(made: Call, before: dict[Path, int]) -> dict[Path, bool]:
    return {path: path in before for path, time_ns in sorted(_seen(made).items()) if before.get(path) != time_ns}


def _unreadable(made: Call, before: dict[Path, int], progress: Callable[[str], None]) -> Iterator[Problem]:
    """Yield a problem for the images in the input folders that no script can read: most leave them out silently."""
    inside = [path for path in before if path.suffix in listing.extensions()]
    inside = [path for path in inside if any(path.is_relative_to(folder) for folder in made.inputs)]
    found = scan.broken(map(str, inside), images.decode, StatCache(None, ""), "images", progress)
    return scan.problems(found, "image does not decode", "images do not decode", "mend, replace or remove them")


@contextmanager
def _noted(here: Workspace, made: Call, before: dict[Path, int]) -> Iterator[dict[Path, bool]]:
    """Append a line to the record, however the call ends: the arguments, and digests of the files read and written."""
    written: dict[Path, bool] = {}
    began, why = time.time(), None
    read_first = digests.of([path for path in made.inputs if path.is_file()], here.cache / "digests")
    try:
        yield written
    except LoraError as exc:
        why = exc.message
        raise
    finally:
        folders = {str(path): sum(each.parent == path for each in before) for path in made.inputs if path.is_dir()}
        entry = {
            "time": began,
            "tool": made.script,
            "arguments": list(made.words),
            "runtime": dict(made.runtime),
            "cwd": str(Path.cwd()),
            "inputs": {**read_first, **folders},
            "outputs": digests.of(written, None),
            "error": why,
        }
        with suppress(OSError), (here.state / RECORD).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
