"""Upstream's scripts besides the network training scripts: which exist, their arguments, the packages they import."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from lora_training import nearest
from lora_training.config.schema import cache as _cache
from lora_training.config.schema import reader, scripts
from lora_training.config.schema.model import Flag
from lora_training.config.schema.source import Tree
from lora_training.errors import UpstreamError, UsageError

_FOLDERS = ("", "finetune", "networks", "tools")
_PARSES = re.compile(r"\.parse_(?:known_)?args\(")
_SWITCHES = {"store_true", "store_false", "store_const", "count", "append", "boolean_optional"}


@dataclass(frozen=True)
class Tool:
    """A script: its path in the tree without `.py`, the description in its own parser, and its arguments."""

    path: str
    description: str | None
    flags: tuple[Flag, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """The script's file name without `.py`."""
        return self.path.rpartition("/")[2]


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


def read(tree: Path, path: str, cache: Path | None = None) -> Tool:
    """Return a script's arguments, from `cache` if the files they were read from are unchanged."""
    kept = _cache.load(cache, tree, path) if cache else None
    if kept is None:
        answer, looked_at = reader.read_parsers(tree, [path])
        kept = answer[path]
        if cache:
            _cache.store(cache, tree, path, kept, looked_at)
    return Tool(path, kept["description"], tuple(map(Flag.of, kept["flags"])))


# -- arguments


class Word(str):
    """An argument that knows its place on the command line."""

    __slots__ = ("place",)
    place: int


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}", hint=f"`lora tool {self.prog} --help` shows its arguments")


def parser(tool: Tool) -> argparse.ArgumentParser:
    """Return a parser with the arguments of `tool`. It raises UsageError; values without a type are of type Word."""
    made = _Parser(prog=tool.name, description=tool.description)
    for flag in tool.flags:
        options = {"help": (flag.english or "").replace("%", "%%"), "default": flag.default}
        made.add_argument(*(flag.options or (flag.dest,)), **options, **_options(flag))
    return made


def _options(flag: Flag) -> dict[str, Any]:
    found: dict[str, Any] = {"dest": flag.dest, "required": flag.required} if flag.options else {}
    if flag.action == "boolean_optional":
        return found | {"action": argparse.BooleanOptionalAction}
    if flag.is_switch or flag.action in _SWITCHES:
        found["action"] = flag.action
    if flag.is_switch:
        return found | ({"const": flag.const} if flag.action == "store_const" else {})
    choices = None if flag.choices is None else [choice for choice in flag.choices if choice is not None]
    return found | {"nargs": flag.nargs, "type": _converter(flag), "choices": choices}


def _converter(flag: Flag) -> Callable[[str], Any] | None:
    if flag.type in ("str", "Path", None):
        return None  # keeps a Word

    def convert(word: str) -> Any:
        try:
            return reader.converted(flag, word)
        except reader.Unknown:
            return word

    convert.__name__ = str(flag.type)
    return convert


def parse(tool: Tool, words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the words, `--a=b` as two, and the values by argument. Raises UsageError as the script itself would."""
    made = parser(tool)
    options = [option for flag in tool.flags for option in flag.options]
    placed = list(_placed(words, options))
    # before argparse looks at them, which would name a required argument in place of the misspelt one
    wrong = [word for word in placed if word.startswith("--") and " " not in word and word != "--"]
    unknown: list[Any] = [word for word in wrong if not any(option.startswith(word) for option in options)]
    values, left = ({}, unknown) if unknown else _parsed(made, placed)
    if left:
        hint = nearest.hint(left[0], options) or f"`lora tool {tool.name} --help` shows its arguments"
        raise UsageError(f"{tool.name}: unrecognized argument {left[0]}", hint=hint)
    return [str(word) for word in placed], values


def _parsed(made: argparse.ArgumentParser, words: list[Word]) -> tuple[dict[str, Any], list[Any]]:
    values, left = made.parse_known_args(words)
    return vars(values), list(left)


def _placed(words: Sequence[str], options: Sequence[str]) -> Iterator[Word]:
    place = 0
    for word in words:
        option, joined, value = word.partition("=")
        for part in (option, value) if joined and option in options else (word,):
            placed = Word(part)
            placed.place, place = place, place + 1
            yield placed


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
