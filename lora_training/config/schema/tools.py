"""Upstream's scripts besides the network training scripts: which exist, their arguments, the packages they import."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_training import nearest
from lora_training.config.schema import reader, scripts
from lora_training.config.schema.source import Tree
from lora_training.errors import UpstreamError, UsageError

_FOLDERS = ("", "finetune", "networks", "tools")
_PARSES = re.compile(r"\.parse_(?:known_)?args\(")


@dataclass(frozen=True)
class CommandLine:
    """A command line as a script's own parser reads it: `--a=b` as two words.

    `script` is its path in the tree without `.py`. `values` has the words that are values, with their places, by
    argument.
    """

    script: str
    words: tuple[str, ...]
    values: Mapping[str, Sequence[tuple[int, str]]]
    is_recursive: bool

    @property
    def name(self) -> str:
        """The script's file name without `.py`."""
        return self.script.rpartition("/")[2]


def paths(tree: Path) -> dict[str, str]:
    """Return the path of each script that parses arguments, by its name, without the network training scripts."""
    left_out = set(scripts(tree))
    found = (path for folder in _FOLDERS for path in sorted((tree / folder).glob("*.py")) if path.stem not in left_out)
    return {
        path.stem: path.relative_to(tree).with_suffix("").as_posix()
        for path in found
        if _PARSES.search(path.read_text(encoding="utf-8", errors="replace"))
    }


def path_of(tree: Path, name: str) -> str:
    """Return the path of the script `name`, with or without folder and `.py`. Raises UsageError if there is none."""
    stem = name.removesuffix(".py").rpartition("/")[2]
    known = paths(tree)
    if not known:
        raise UpstreamError(f"no script in {tree}", hint="run `lora upstream sync`")
    if stem in known:
        return known[stem]
    if stem in scripts(tree):
        raise UsageError(f"{stem} trains a LoRA", hint="`lora train CONFIG` runs it, from one TOML file")
    raise UsageError(f"upstream has no tool `{name}`", hint=nearest.hint(stem, known) or "`lora tool list` shows them")


def parse(tree: Path, path: str, words: Sequence[str]) -> CommandLine:
    """Have a script's own parser read a command line. Raises UsageError as the script itself would."""
    found = reader.parse(tree, {path: words})[path]
    name = path.rpartition("/")[2]
    hint = f"`lora tool {name} --help` shows its arguments"
    if "refusal" in found:
        raise UsageError(f"{name}: {found['refusal']}", hint=hint)
    for unknown in found["unknown"]:
        raise UsageError(
            f"{name}: unrecognized argument {unknown}", hint=nearest.hint(unknown, found["options"]) or hint
        )
    return CommandLine(path, tuple(found["words"]), found["values"], found["is_recursive"])


# -- packages


def lacking(source: Tree, path: str) -> tuple[list[str], list[str]]:
    """Return the packages that are not installed: those that a script imports at its start, and inside of functions."""
    folder, _, _ = path.replace("/", ".").rpartition(".")
    start: set[str] = set()
    _imports(source, path.replace("/", "."), folder, start, set())
    script = source.module(path.replace("/", "."))
    nodes = (node for statement in (script.body if script else ()) for node in ast.walk(statement))
    functions = (node for node in nodes if isinstance(node, ast.FunctionDef))
    late = {name.partition(".")[0] for node in functions for name in _named(node.body, deep=True)}
    folders = (source.root / folder.replace(".", "/"), source.root)
    missing = [name for name in sorted(start | late) if _is_missing(name, *folders)]
    return [name for name in missing if name in start], [name for name in missing if name not in start]


def _imports(source: Tree, name: str, folder: str, found: set[str], seen: set[str]) -> None:
    """Collect the imports of a module outside of functions and `try`; modules of the tree are followed."""
    module = source.module(name)
    if module is None or name in seen:
        return
    seen.add(name)
    for imported in _named(module.body, deep=False):
        beside = f"{folder}.{imported}".lstrip(".")
        inner = next((each for each in (beside, imported) if source.module(each)), None)
        if inner:
            _imports(source, inner, folder, found, seen)
        else:
            found.add(imported.partition(".")[0])


def _named(body: Sequence[ast.stmt], *, deep: bool) -> Iterator[str]:
    nodes = [node for statement in body for node in ast.walk(statement)] if deep else body
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _is_missing(name: str, *folders: Path) -> bool:
    if any((folder / name).is_dir() or (folder / f"{name}.py").exists() for folder in folders):
        return False
    return importlib.util.find_spec(name) is None
