"""Ask upstream's own code for its flags. Runs in a child process with only the standard library.

`child.py read TREE SCRIPT...` imports each script, calls its `setup_parser()` and prints the parsers as JSON. All
packages outside the standard library and the tree are replaced by stand-ins, so that none has to be installed.
`child.py parse TREE` reads a table of scripts and command lines from standard input, runs each script, which need not
have `setup_parser()`, until it parses its arguments, and prints what its parser makes of the words.
`child.py convert` reads a type function's source and a word from standard input, and prints the converted word.

An audit hook refuses network, processes and writing. It protects against accidents in code that has not been reviewed
yet, such as that of a rehearsed bump; it is not a sandbox for malicious code.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import importlib
import importlib.abc
import importlib.machinery
import inspect
import io
import json
import math
import os
import pathlib
import re
import runpy
import sys
import traceback
import types
from typing import Any

_REFUSED = re.compile(
    r"socket\.|subprocess\.|shutil\.|tempfile\.|ctypes\.dlopen|pty\.spawn|webbrowser\."
    r"|os\.(system|exec|spawn|posix_spawn|fork|forkpty|kill|killpg|remove|rename|rmdir|mkdir|truncate|link|symlink"
    r"|chmod|chown|chflags|utime|setxattr|removexattr|lockf)"
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_DEFINES = re.compile(r"add_(?!argument$)\w*arguments?|setup_parser")
_JAPANESE = re.compile("[\u3000-\U0010ffff]")
_SCALARS = {bool: "bool", int: "int", float: "float", str: "str", dict: "dict", None: "none"}


class Undecided(Exception):
    """A value or a branch depends on a package that is not imported here."""


class StandIn:
    """Any object of a package that is not imported. It can be called, subscripted, subclassed, used as a decorator.

    In a condition it is false, or raises Undecided while `decides` is False.
    """

    # False while a parser is built, which must not depend on the truth value of a stand-in
    decides = True

    def __init__(self, name: str, *args: Any) -> None:
        self.name, self.args = name, args

    def __repr__(self) -> str:
        return self.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the decorated object, or a stand-in for the result."""
        decorates = len(args) == 1 and not kwargs and isinstance(args[0], types.FunctionType | type)
        return args[0] if decorates else StandIn(f"{self.name}()", *args)

    def __getattr__(self, name: str) -> Any:
        if name == "__version__":
            return "0"
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn(f"{self.name}.{name}")

    def __mro_entries__(self, _bases: Any) -> tuple[type, ...]:
        return (type(self.name.rpartition(".")[2], (), {}),)

    def __iter__(self) -> Any:
        return iter(())

    def __bool__(self) -> bool:
        if not StandIn.decides:
            raise Undecided(f"it depends on {self.name}")
        return False

    def __getitem__(self, key: Any) -> StandIn:
        return StandIn(f"{self.name}[{key}]")

    def __or__(self, _other: Any) -> StandIn:
        return self

    __ror__ = __or__

    def __lt__(self, _other: Any) -> StandIn:
        return self

    __le__ = __gt__ = __ge__ = __lt__


class Package(types.ModuleType):
    """A stand-in for a package or module."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        return StandIn(self.__name__).__getattr__(name)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports stand-ins for all names outside the standard library and the tree.

    `looked_at` has the module files of the tree that were looked for, whether they exist or not.
    """

    def __init__(self, tree: pathlib.Path) -> None:
        self.tree = tree
        self.looked_at: set[str] = set()

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for a name outside the standard library and the tree, else None."""
        if name.partition(".")[0] in sys.stdlib_module_names:
            return None
        stem = name.replace(".", "/")
        self.looked_at |= {f"{stem}.py", f"{stem}/__init__.py"}
        if (self.tree / stem).is_dir() or (self.tree / f"{stem}.py").exists():
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """Return a stand-in module."""
        return Package(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing: a stand-in has no code."""


def audit(event: str, args: tuple[Any, ...]) -> None:
    """Raise an error for events that reading a parser never needs."""
    opens = event == "open" and (args[2] or 0) & _WRITING
    if opens or _REFUSED.match(event):
        raise PermissionError(f"{event} is refused while the flags are read")


# -- flags


def note_origins() -> None:
    """Have argparse note in each flag which function defined it: the innermost running `add_*_arguments`."""
    add = argparse._ActionsContainer.add_argument

    def noted(container: Any, *args: Any, **kwargs: Any) -> Any:
        action: Any = add(container, *args, **kwargs)
        names = (frame.f_code.co_name for frame, _ in traceback.walk_stack(None))
        action.defined_in = next((name for name in names if _DEFINES.fullmatch(name)), None)
        return action

    argparse._ActionsContainer.add_argument = noted  # type: ignore[assignment]


def flag(action: argparse.Action) -> dict[str, Any]:
    """Return an argparse action as plain data."""
    options = list(action.option_strings)
    kind = type(action).__name__.strip("_").removesuffix("Action")
    return {
        "name": next((o for o in options if o.startswith("--")), options[0] if options else action.dest),
        "dest": action.dest,
        "type": _type_name(action.type),
        "default": plain(action.default),
        "choices": None if action.choices is None else [plain(choice) for choice in action.choices],
        "nargs": action.nargs,
        "action": re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower(),
        "help": english(action.help) if isinstance(action.help, str) else None,
        "required": action.required,
        "const": plain(action.const),
        "options": options,
        "type_source": source(action.type),
        "defined_in": getattr(action, "defined_in", None),
    }


def english(text: str) -> str:
    """Return a help text without upstream's Japanese part, which follows a slash."""
    head = _JAPANESE.split(text, maxsplit=1)[0]
    return text if head == text else (head.rpartition("/")[0] or head).strip()


def _type_name(kind: Any) -> str | None:
    if kind is None or isinstance(kind, str):
        return kind
    if isinstance(kind, StandIn):
        return kind.name.rpartition(".")[2]
    return getattr(kind, "__name__", None) or type(kind).__name__


def source(kind: Any) -> str | None:
    """Return the source of one of upstream's functions, without its indentation."""
    if not isinstance(kind, types.FunctionType):
        return None
    first = kind.__code__.co_firstlineno
    nodes = ast.walk(ast.parse(pathlib.Path(inspect.getfile(kind)).read_text(encoding="utf-8")))
    kinds = ast.Lambda | ast.FunctionDef
    return next((ast.unparse(node) for node in nodes if isinstance(node, kinds) and node.lineno == first), None)


def plain(value: Any) -> Any:
    """Convert `value` to JSON values: tuples to lists, paths to text, anything else to its `str()`."""
    if isinstance(value, list | tuple | set | frozenset | range):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


# -- bucket sizes


def bucket_steps(module: types.ModuleType, defaults: argparse.Namespace) -> int:
    """Return the number that must divide `bucket_reso_steps`; 1 if upstream requires none.

    Upstream's trainers check it in `assert_extra_args`, which the last class of the script with that method is asked.
    """
    steps, group = [1], StandIn("DatasetGroup")
    vars(group)["verify_bucket_reso_steps"] = steps.append
    own = [each for each in vars(module).values() if getattr(each, "__module__", None) == module.__name__]
    trainers = [each for each in own if isinstance(each, type) and "assert_extra_args" in vars(each)]
    if not trainers:
        return 1
    check: Any = types.MethodType(vars(trainers[-1])["assert_extra_args"], object.__new__(trainers[-1]))
    others = check.__code__.co_argcount - len(("self", "args"))
    with contextlib.suppress(Exception):
        check(defaults, *[group] * others)
    return math.lcm(*steps)


# -- the dataset configuration


class Asked(Exception):
    """Carries the schema against which upstream was about to validate a value."""


class Validator(StandIn):
    """A `voluptuous.Schema` that returns itself instead of validating."""

    def __init__(self, schema: Any, **_options: Any) -> None:
        super().__init__("voluptuous.Schema", schema)

    def __call__(self, *_values: Any, **_kwargs: Any) -> Any:
        """Raise Asked with the schema."""
        raise Asked(self.args[0])


def datasets(styles: dict[str, str]) -> dict[str, Any]:
    """Return the tables of upstream's dataset configuration; `styles` has the key that marks a subset of each style."""
    sanitizer = importlib.import_module("library.config_util").ConfigSanitizer(True, True, True, True)
    whole = sanitizer.user_config_validator.args[0]
    (dataset,) = whole["datasets"]
    found = {}
    for style, key in styles.items():
        keys = dict(_asked(dataset, {"subsets": [{key: "probe"}]}))
        (subset,) = keys.pop("subsets")
        found[style] = {"dataset": _table(keys), "subset": _table(subset)}
    return {"general": _table(whole["general"]), "styles": found}


def _asked(function: Any, *args: Any) -> Any:
    try:
        function(*args)
    except Asked as asked:
        return asked.args[0]
    raise TypeError(f"{function} checks nothing")


def _table(raw: dict[Any, Any]) -> dict[str, Any]:
    names = {key: key.args[0] if isinstance(key, StandIn) else key for key in raw}
    required = [name for key, name in names.items() if str(key) == "voluptuous.Required()"]
    return {"keys": {names[key]: _shape(value) for key, value in raw.items()}, "required": required}


def _shape(value: Any) -> dict[str, list[str]]:
    if isinstance(value, functools.partial):
        return _shape(_asked(value, object()))
    if str(value) == "voluptuous.ExactSequence()":
        return {"scalars": [], "sequence": [_SCALARS[item] for item in value.args[0]]}
    if str(value) == "voluptuous.Any()":
        parts = [_shape(part) for part in value.args]
        return {name: [each for part in parts for each in part[name]] for name in ("scalars", "sequence")}
    return {"scalars": [_SCALARS[value]], "sequence": []}


# -- the commands


def read(tree: pathlib.Path, scripts: list[str], styles: dict[str, str]) -> dict[str, Any]:
    """Return the flags of each script, or an error, the dataset tables, and the files that were looked at."""
    finder = _prepared(tree)
    vars(importlib.import_module("voluptuous"))["Schema"] = Validator
    found: dict[str, Any] = {name: _outcome(tree, lambda name=name: _script(name)) for name in scripts}
    has_datasets = (tree / "library/config_util.py").exists()
    tables = _outcome(tree, lambda: datasets(styles)) if has_datasets else {"value": None}
    return {"scripts": found, "datasets": tables, "looked_at": sorted(finder.looked_at)}


def _prepared(tree: pathlib.Path) -> Finder:
    finder = Finder(tree)
    note_origins()
    sys.meta_path.insert(0, finder)
    sys.path.insert(0, str(tree))
    sys.addaudithook(audit)
    return finder


class Parses(BaseException):
    """Carries the parser with which a script was about to parse its arguments."""


class Word(str):
    """A word that knows its place on the command line."""

    __slots__ = ("place",)
    place: int


def parse(tree: pathlib.Path, asked: dict[str, list[str]]) -> dict[str, Any]:
    """Return each script's words as its own parser reads them, or an error for it."""
    _prepared(tree)
    own = argparse.ArgumentParser.parse_known_args

    def refuse(parser: argparse.ArgumentParser, *_args: Any, **_kwargs: Any) -> Any:
        raise Parses(parser)

    argparse.ArgumentParser.parse_known_args = refuse  # type: ignore[assignment, method-assign]
    return {
        name: _outcome(tree, lambda name=name, words=words: _parsed(_parser(tree / f"{name}.py"), own, words))
        for name, words in asked.items()
    }


def _parser(path: pathlib.Path) -> Any:
    sys.argv = [str(path)]
    try:
        runpy.run_path(str(path), run_name="__main__")
    except Parses as parses:
        return parses.args[0]
    raise TypeError("it parses no arguments")


def _parsed(parser: argparse.ArgumentParser, own: Any, words: list[str]) -> dict[str, Any]:
    """Return help and options of a parser, and the words with their places by argument, those unknown, or a refusal."""
    for action in parser._actions:
        action.help = english(action.help) if isinstance(action.help, str) else None
        # without a conversion, a value stays a Word
        action.type = None if action.type in (str, pathlib.Path) else action.type
        action.choices = action.choices and [choice for choice in action.choices if choice is not None]
    parser.description = parser.description and english(parser.description)
    parser.prog = parser.prog.removesuffix(".py")
    named = parser._option_string_actions.items()
    options = [option for option, action in named if not isinstance(action, argparse._HelpAction)]
    placed = _placed(words, options)
    found = {"description": parser.description, "help": parser.format_help(), "options": options, "words": placed}
    # before argparse looks at them, which would name a required argument in place of the misspelt one
    wrong = [word.partition("=")[0] for word in placed if word.startswith("--") and " " not in word and word != "--"]
    unknown = [word for word in wrong if not any(option.startswith(word) for option in options)]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            values, left = (argparse.Namespace(), unknown) if unknown else own(parser, placed)
    except SystemExit:
        return {**found, "refusal": said.getvalue().partition(": error: ")[2].strip()}
    taken = {dest: [(word.place, word) for word in _words(value)] for dest, value in vars(values).items()}
    return {**found, "unknown": left, "values": taken, "is_recursive": vars(values).get("recursive") is True}


def _placed(words: list[str], options: list[str]) -> list[Word]:
    """Return the words, `--a=b` as two."""
    parts = ((word.split("=", 1) if word.partition("=")[0] in options else [word]) for word in words)
    placed = [Word(part) for pair in parts for part in pair]
    for place, word in enumerate(placed):
        word.place = place
    return placed


def _words(value: Any) -> list[Word]:
    if isinstance(value, list):
        return [word for each in value for word in _words(each)]
    return [value] if isinstance(value, Word) else []


def _script(name: str) -> dict[str, Any]:
    module = importlib.import_module(name)
    StandIn.decides = False
    try:
        parser = module.setup_parser()
        if not isinstance(parser, argparse.ArgumentParser):
            raise TypeError("setup_parser() returns no parser")
        actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
        flags = [flag(action) for action in actions]
    finally:
        StandIn.decides = True
    defaults = {action.dest: action.default for action in actions}
    return {"flags": flags, "bucket_steps": bucket_steps(module, argparse.Namespace(**defaults))}


def _outcome(tree: pathlib.Path, function: Any) -> dict[str, Any]:
    try:
        return {"value": function()}
    except SyntaxError as exc:
        place = _inside(tree, exc.filename or "?")
        return {"error": f"{place} of the upstream tree is not Python: {exc.msg} (line {exc.lineno})"}
    except (Exception, SystemExit) as exc:
        frames = traceback.extract_tb(exc.__traceback__)
        places = [f"{_inside(tree, at.filename)}:{at.lineno}" for at in frames if at.filename.startswith(str(tree))]
        return {"error": f"{type(exc).__name__}: {exc}" + (f" (at {places[-1]})" if places else "")}


def _inside(tree: pathlib.Path, file: str) -> str:
    return os.path.relpath(file, tree)


def convert(text: str, word: str) -> dict[str, Any]:
    """Call the function that `text` defines with `word`; return its value, its error message, or an empty dict."""
    sys.addaudithook(audit)
    names: dict[str, Any] = {"argparse": argparse, "os": os, "pathlib": pathlib, "re": re}
    (statement,) = ast.parse(text).body
    try:
        if isinstance(statement, ast.FunctionDef):
            exec(text, names)
            function = names[statement.name]
        else:
            function = eval(text, names)
    except Exception:
        return {}
    try:
        return {"value": plain(function(word))}
    except (ValueError, TypeError, argparse.ArgumentTypeError) as exc:
        return {"refusal": str(exc) or type(exc).__name__}
    except Exception:
        return {}


def main() -> None:
    """Run one command and print its result; upstream's own output goes to standard error."""
    out, sys.stdout = sys.stdout, sys.stderr
    sys.dont_write_bytecode = True
    if sys.argv[1] == "read":
        _, _, tree, styles, *scripts = sys.argv
        answer = read(pathlib.Path(tree).resolve(), scripts, json.loads(styles))
    elif sys.argv[1] == "parse":
        answer = parse(pathlib.Path(sys.argv[2]).resolve(), json.load(sys.stdin))
    else:
        answer = convert(*json.load(sys.stdin))
    json.dump(answer, out)


if __name__ == "__main__":
    main()
