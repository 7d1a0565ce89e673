"""Upstream's scripts besides the network training scripts: which exist, their arguments, the packages they import."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_training import nearest
from lora_training.config.schema import reader, scripts
from lora_training.config.schema.source import Tree, is_module
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
    """Return the packages that are not installed: those that a script imports at its start, and inside of functions.

    Imports in `try` do not count. Those of the tree's modules do.
    """
    modules, start = [path.replace("/", ".")], set()
    folder = modules[0].rpartition(".")[0]
    for module in filter(None, map(source.module, modules)):  # which grows
        for name in _imported(module.body):
            inner = next((each for each in (f"{folder}.{name}".lstrip("."), name) if source.module(each)), None)
            if inner is None:
                start.add(name.partition(".")[0])
            elif inner not in modules:
                modules.append(inner)
    script = source.module(modules[0])
    nodes = (node for statement in (script.body if script else ()) for node in ast.walk(statement))
    inside = (inner for node in nodes if isinstance(node, ast.FunctionDef) for inner in ast.walk(node))
    late = {name.partition(".")[0] for name in _imported(inside)} - start
    folders = (source.root, source.root / folder)

    def missing(names: set[str]) -> list[str]:
        return sorted(name for name in names if not any(is_module(name, each) for each in folders))

    return missing(start), missing(late)


def _imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
